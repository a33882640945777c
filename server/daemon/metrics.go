package daemon

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/intake"
	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/store"
)

// metrics are what Prometheus reads; docs/server.md lists them, and
// deploy/grafana/assay.json shows them.
type metrics struct {
	registry    *prometheus.Registry
	requests    *prometheus.CounterVec
	latency     *prometheus.HistogramVec
	logins      *prometheus.CounterVec
	follow      *prometheus.HistogramVec
	followed    *prometheus.CounterVec
	followFault *prometheus.CounterVec
	jobs        *prometheus.HistogramVec
	jobFaults   *prometheus.CounterVec
	cut         *prometheus.CounterVec
	quota       *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_http_requests_total", Help: "Requests to the API, by route and status."}, []string{"route", "status"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "assay_http_request_duration_seconds", Help: "How long requests took, by route.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, []string{"route"}),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_authentications_total", Help: "Requests by authenticator and result."}, []string{"authenticator", "result"}),
		follow: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "assay_follow_duration_seconds", Help: "How long loading policies, updating the engine, classifying and publishing bundles took.",
			Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 2, 5, 10, 30}}, []string{"step"}),
		followed:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_follow_items_total", Help: "Policies loaded, changes seen, listings classified, bundles published."}, []string{"step"}),
		followFault: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_follow_errors_total", Help: "Errors of these steps."}, []string{"step"}),
		jobs: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "assay_job_duration_seconds", Help: "How long jobs took, by kind.",
			Buckets: []float64{.01, .05, .1, .5, 1, 5, 10, 60, 300}}, []string{"kind"}),
		jobFaults: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_job_errors_total", Help: "Attempts of jobs that failed, by kind."}, []string{"kind"}),
		cut:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_http_connections_cut_total", Help: "Connections that were closed: slow, or for others' sake (connections)."}, []string{"reason"}),
		quota:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_quota_refused_total", Help: "What was handed in and is beyond a quota, by what there would be too much of."}, []string{"quota"}),
	}
	for _, of := range []string{"digests", "names", "bytes"} {
		m.quota.WithLabelValues(of)
	}
	for _, reason := range []string{intake.ReasonSlow, intake.ReasonConnections} {
		m.cut.WithLabelValues(reason) // there from the start, at 0
	}
	m.registry.MustRegister(m.requests, m.latency, m.logins, m.follow, m.followed, m.followFault, m.jobs, m.jobFaults, m.cut, m.quota,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) request(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.latency.WithLabelValues(route).Observe(took.Seconds())
}

func (m *metrics) login(authenticator, result string) {
	m.logins.WithLabelValues(authenticator, result).Inc()
}

func (m *metrics) step(what string, n int, took time.Duration, err error) {
	m.follow.WithLabelValues(what).Observe(took.Seconds())
	m.followed.WithLabelValues(what).Add(float64(n))
	if err != nil {
		m.followFault.WithLabelValues(what).Inc()
	}
}

func (m *metrics) job(kind string, took time.Duration, err error) {
	m.jobs.WithLabelValues(kind).Observe(took.Seconds())
	if err != nil {
		m.jobFaults.WithLabelValues(kind).Inc()
	}
}

// state is what is read when Prometheus asks.
type state struct {
	store    *store.Store
	storage  *storage
	jobs     *jobs.Jobs
	database func() *api.ScanDatabase
	// databases tells of those that are kept.
	databases func(context.Context) (*api.DatabaseState, error)
	matching  func(context.Context) (store.MatchCounts, error)
	refused   func() bool
	ready     func() bool
	waiting   func() int
}

var (
	imagesDesc      = prometheus.NewDesc("assay_images", "References with a digest, by result.", []string{"result"}, nil)
	databaseDesc    = prometheus.NewDesc("assay_vulnerability_database_built_timestamp_seconds", "When the vulnerability database in use was built.", nil, nil)
	updateDesc      = prometheus.NewDesc("assay_vulnerability_database_update_failed", "1 while the last try to update the vulnerability database failed.", nil, nil)
	ownDesc         = prometheus.NewDesc("assay_advisories_refused", "1 while the site's newest own advisories cannot be used, and the last good ones stay.", nil, nil)
	refusedDesc     = prometheus.NewDesc("assay_policies_refused", "1 while the newest state of the policies is refused, and the last good one stays.", nil, nil)
	readyDesc       = prometheus.NewDesc("assay_ready", "1 once policies and data are loaded.", nil, nil)
	heardDesc       = prometheus.NewDesc("assay_cluster_last_heard_timestamp_seconds", "When something of a cluster was heard last.", []string{"cluster"}, nil)
	sbomsDesc       = prometheus.NewDesc("assay_rematch_sboms", "SBOMs: all, those due to be matched, those of them that a new database may find another vulnerability in (urgent), and those that could not be matched (failed).", []string{"state"}, nil)
	usedDesc        = prometheus.NewDesc("assay_quota_used", "What identities hold of what they handed in: digests, names and bytes.", []string{"identity", "quota"}, nil)
	writableDesc    = prometheus.NewDesc("assay_storage_writable", "1 while data can be stored: the database takes writes, and the disks have room.", nil, nil)
	freeDesc        = prometheus.NewDesc("assay_disk_free_bytes", "What is free on the disks of this server: of its data, and of a SQLite database.", []string{"of"}, nil)
	firingDesc      = prometheus.NewDesc("assay_alerts_firing", "Alerts that fire.", nil, nil)
	undeliveredDesc = prometheus.NewDesc("assay_notifications_undelivered", "Notifications by receiver: those that wait for their next attempt, and those that were given up (failed).", []string{"receiver", "state"}, nil)
	jobsDesc        = prometheus.NewDesc("assay_jobs", "Background jobs that are not done, by kind and state.", []string{"kind", "state"}, nil)
	jobsDueDesc     = prometheus.NewDesc("assay_jobs_oldest_due_timestamp_seconds", "Since when the oldest job that no worker has taken could have begun.", []string{"kind"}, nil)
	waitingDesc     = prometheus.NewDesc("assay_bundle_requests_waiting", "Requests that wait for a bundle to change.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s state) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{imagesDesc, databaseDesc, updateDesc, ownDesc, refusedDesc, readyDesc, waitingDesc, heardDesc, sbomsDesc, usedDesc, writableDesc, freeDesc, firingDesc, undeliveredDesc, jobsDesc, jobsDueDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (s state) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	truth := map[bool]float64{true: 1}
	gauge(refusedDesc, truth[s.refused()])
	gauge(readyDesc, truth[s.ready()])
	gauge(waitingDesc, float64(s.waiting()))
	gauge(writableDesc, truth[s.storage.Fault() == ""])
	for of, bytes := range s.storage.Free() {
		gauge(freeDesc, float64(bytes), of)
	}
	if db := s.database(); db != nil {
		gauge(databaseDesc, float64(db.Built.Unix()))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if st, err := s.databases(ctx); err == nil {
		gauge(updateDesc, truth[st.LastUpdate != nil && st.LastUpdate.Error != ""])
		gauge(ownDesc, truth[st.Advisories != ""])
	}
	if depths, err := s.jobs.Depths(ctx); err == nil {
		for _, d := range depths {
			gauge(jobsDesc, float64(d.Jobs), d.Kind, d.State)
			if d.State == jobs.Available {
				gauge(jobsDueDesc, float64(d.Since.Unix()), d.Kind)
			}
		}
	}
	if b, err := s.store.Backlog(ctx); err == nil {
		gauge(firingDesc, float64(b.Firing))
		for receiver, n := range b.Deliveries {
			gauge(undeliveredDesc, float64(n.Waiting), receiver, "waiting")
			gauge(undeliveredDesc, float64(n.Failed), receiver, "failed")
		}
	}
	clusters, err := s.store.Clusters(ctx)
	if err != nil {
		return
	}
	for _, c := range clusters {
		if at, err := time.Parse(time.RFC3339, c.LastHeard); err == nil {
			gauge(heardDesc, float64(at.Unix()), c.Name)
		}
	}
	if n, err := s.matching(ctx); err == nil {
		gauge(sbomsDesc, float64(n.SBOMs), "all")
		gauge(sbomsDesc, float64(n.Due), "due")
		gauge(sbomsDesc, float64(n.Urgent), "urgent")
		gauge(sbomsDesc, float64(n.Failed), "failed")
	}
	used, err := s.store.Usages(ctx)
	if err != nil {
		return
	}
	for identity, u := range used {
		gauge(usedDesc, float64(u.Digests), identity, "digests")
		gauge(usedDesc, float64(u.Names), identity, "names")
		gauge(usedDesc, float64(u.Bytes), identity, "bytes")
	}
	counts, err := s.store.Counts(ctx, store.Filter{})
	if err != nil {
		return // the metrics of requests tell of it
	}
	for result, n := range counts {
		gauge(imagesDesc, float64(n), string(result))
	}
}
