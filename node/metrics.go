package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/assay-dev/assay/intake"
	"github.com/assay-dev/assay/scanner/child"
)

type metrics struct {
	registry      *prometheus.Registry
	scans         *prometheus.CounterVec
	cpu           prometheus.Counter
	duration      prometheus.Histogram
	memory        prometheus.Histogram
	sent, refused prometheus.Counter
	reports       *prometheus.CounterVec
	reportErrors  prometheus.Counter
}

func newMetrics(a *Agent) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "assay_node_" + name, Help: help})
	}
	m := &metrics{
		registry:     prometheus.NewRegistry(),
		scans:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_node_scans_total", Help: "Images scanned, by ok or failed."}, []string{"result"}),
		cpu:          counter("scan_cpu_seconds_total", "CPU time of scans."),
		duration:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "assay_node_scan_duration_seconds", Help: "Time that scans took.", Buckets: prometheus.ExponentialBuckets(1, 2, 11)}),
		memory:       prometheus.NewHistogram(prometheus.HistogramOpts{Name: "assay_node_scan_peak_memory_bytes", Help: "Most memory that each scan had at a time.", Buckets: prometheus.ExponentialBuckets(64<<20, 2, 7)}),
		sent:         counter("sent_total", "SBOMs and failed scans that the server took."),
		refused:      counter("refused_total", "SBOMs and failed scans that the server refused for good."),
		reports:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_node_reports_total", Help: "Reports of what runs: full, changes or heartbeat."}, []string{"kind"}),
		reportErrors: counter("report_errors_total", "Reports of what runs that the server did not take."),
	}
	m.registry.MustRegister(m.scans, m.cpu, m.duration, m.memory, m.sent, m.refused, m.reports, m.reportErrors, stateCollector{a},
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	return m
}

func (m *metrics) scanned(ok bool, u child.Usage) {
	result := "ok"
	if !ok {
		result = "failed"
	}
	m.scans.WithLabelValues(result).Inc()
	m.cpu.Add(u.CPU.Seconds())
	m.duration.Observe(u.Duration.Seconds())
	m.memory.Observe(float64(u.Memory))
}

// stateCollector tells how things stand when it is asked.
type stateCollector struct{ a *Agent }

var (
	imagesDesc     = prometheus.NewDesc("assay_node_images", "Images on the node: running, resting, excluded, or unnamed, which cannot be told of.", []string{"state"}, nil)
	instancesDesc  = prometheus.NewDesc("assay_node_instances", "Containers that run and are told of.", nil, nil)
	givenUpDesc    = prometheus.NewDesc("assay_node_images_given_up", "Images that failed too often to be scanned again by this version.", nil, nil)
	queueItemsDesc = prometheus.NewDesc("assay_node_queue_items", "SBOMs and failed scans that wait to be sent.", nil, nil)
	queueBytesDesc = prometheus.NewDesc("assay_node_queue_bytes", "Disk that they take.", nil, nil)
	droppedDesc    = prometheus.NewDesc("assay_node_queue_dropped_total", "Items that were dropped because the queue was full.", nil, nil)
	enabledDesc    = prometheus.NewDesc("assay_node_enabled", "1 while the scanner is switched on.", nil, nil)
	readDesc       = prometheus.NewDesc("assay_node_read", "1 while containerd and CRI answer.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c stateCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{imagesDesc, instancesDesc, givenUpDesc, queueItemsDesc, queueBytesDesc, droppedDesc, enabledDesc, readDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c stateCollector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	one := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	c.a.mu.Lock()
	running, given := 0, 0
	for d, i := range c.a.inventory.images {
		if i.Running {
			running++
		}
		if c.a.states[d].kind == givenUp {
			given++
		}
	}
	images, excluded, unnamed, instances := len(c.a.inventory.images), c.a.inventory.excluded, c.a.inventory.unnamed, len(c.a.inventory.instances)
	c.a.mu.Unlock()
	gauge(imagesDesc, float64(running), "running")
	gauge(imagesDesc, float64(images-running), "resting")
	gauge(imagesDesc, float64(excluded), "excluded")
	gauge(imagesDesc, float64(unnamed), "unnamed")
	gauge(instancesDesc, float64(instances))
	gauge(givenUpDesc, float64(given))
	items, bytes, dropped := c.a.queue.state()
	gauge(queueItemsDesc, float64(items))
	gauge(queueBytesDesc, float64(bytes))
	to <- prometheus.MustNewConstMetric(droppedDesc, prometheus.CounterValue, float64(dropped))
	gauge(enabledDesc, one(c.a.settings.Load().Enabled))
	gauge(readDesc, one(c.a.read.Load()))
}

// serve serves health and metrics.
func (a *Agent) serve(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !a.read.Load() && a.settings.Load().Enabled {
			http.Error(w, "containerd or CRI does not answer yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	conns := intake.Listen(a.Listener, intake.Limits{Total: 64, PerClient: 32})
	s := &http.Server{Handler: conns.Handler(mux), ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	go func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Shutdown(end)
	}()
	if err := s.Serve(conns); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics: %w", err)
	}
	return nil
}
