package console

import (
	"net/http"
	"net/url"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/store"
)

type overviewBody struct {
	All, Running           []bar
	AllTotal, RunningTotal int
	Worst                  []store.Image
	Firing                 []store.Episode
	Ending                 []server.ListedException
	Exploited              []store.Vulnerability
	New                    []store.NewVulnerability
	Trend                  []trendDay
	Changes                []store.StoredEvent
	Version                server.VersionView
	DatabaseOld            bool
	Clusters               []store.Cluster
	Queue                  map[string]int // jobs by state
	Failed                 []jobs.Job
	Empty                  bool
}

// soon is how long before its end an exception is shown.
const soon = 14 * 24 * time.Hour

func (c *Console) overview(r *http.Request) (*page, error) {
	var b overviewBody
	var all, running server.CountList
	var worst store.List[store.Image]
	var firing server.Items[store.Episode]
	var excepted store.List[server.ListedException]
	var exploited store.List[store.Vulnerability]
	var events store.List[store.StoredEvent]
	var found server.Items[store.NewVulnerability]
	var trend server.Items[store.TrendDay]
	var clusters server.Items[store.Cluster]
	var queue server.Items[jobs.Job]
	if err := c.getAll(r, []question{
		{"/counts", nil, &all},
		{"/counts", url.Values{"running": {"true"}}, &running},
		{"/images", url.Values{"running": {"true"}, "sort": {"-score"}, "limit": {"8"}, "result": {"Fail,Warn"}}, &worst},
		{"/alerts", url.Values{"firing": {"true"}, "limit": {"8"}}, &firing},
		{"/exceptions", url.Values{"in_force": {"true"}, "limit": {"8"}}, &excepted},
		{"/vulnerabilities", url.Values{"kev": {"true"}, "sort": {"-images"}, "limit": {"8"}}, &exploited},
		{"/events", url.Values{"changed": {"true"}, "limit": {"10"}}, &events},
		{"/new-vulnerabilities", url.Values{"limit": {"8"}}, &found},
		{"/trend", url.Values{"days": {"60"}}, &trend},
		{"/version", nil, &b.Version},
		{"/clusters", nil, &clusters},
		{"/jobs", url.Values{"limit": {"200"}}, &queue},
	}); err != nil {
		return nil, err
	}
	b.All, b.AllTotal = bars(all.Counts, "/images")
	b.Running, b.RunningTotal = bars(running.Counts, "/images", "running", "true")
	b.Empty = b.AllTotal == 0
	b.Worst, b.Firing, b.Exploited, b.Changes, b.New, b.Clusters = worst.Items, firing.Items, exploited.Items, events.Items, found.Items, clusters.Items
	for _, e := range excepted.Items {
		if end, ok := timeOf(e.Spec.Expires); ok && end.Sub(c.Now()) < soon {
			b.Ending = append(b.Ending, e)
		}
	}
	b.Trend = trendOf(trend.Items)
	b.DatabaseOld = b.Version.Database != nil && c.Now().Sub(b.Version.Database.Built) > 5*24*time.Hour
	b.Queue = map[string]int{}
	for _, j := range queue.Items {
		b.Queue[string(j.State)]++
		if j.Error != "" && j.State != "completed" && len(b.Failed) < 5 {
			b.Failed = append(b.Failed, j)
		}
	}
	return &page{name: "overview", Title: "Overview", Nav: "overview", Live: "results instances alerts exceptions", Body: &b}, nil
}

// Waiting are the jobs that are not done.
func (b *overviewBody) Waiting() int {
	return b.Queue["available"] + b.Queue["scheduled"] + b.Queue["retryable"] + b.Queue["pending"]
}

// Active are the jobs that are done now.
func (b *overviewBody) Active() int { return b.Queue["running"] }

// trendDay is a day of the chart: the numbers, and their bars in hundredths of the height.
type trendDay struct {
	store.TrendDay
	X, Width int
	Bars     []bar
}

// Of is the number of images of a result.
func (d trendDay) Of(result string) int { return d.Running[api.Result(result)] }

// trendOf lays the running images of each day above another, the days side by side; where
// nothing was ever seen to run, all images.
func trendOf(days []store.TrendDay) (list []trendDay) {
	most, runs := 0, false
	for _, d := range days {
		for _, n := range d.Running {
			runs = runs || n > 0
		}
	}
	counts := func(d store.TrendDay) map[api.Result]int {
		if runs {
			return d.Running
		}
		return d.All
	}
	for _, d := range days {
		total := 0
		for _, n := range counts(d) {
			total += n
		}
		most = max(most, total)
	}
	if most == 0 {
		return nil
	}
	for i, d := range days {
		x := trendDay{TrendDay: d, X: 10_000 * i / len(days), Width: max(1, 10_000/len(days)-20)}
		if !runs {
			x.Running = x.All
		}
		y := 2000
		for _, result := range []api.Result{api.Pass, api.Warned, api.Unknown, api.Fail} {
			height := 2000 * counts(d)[result] / most
			y -= height
			x.Bars = append(x.Bars, bar{Result: result, Count: counts(d)[result], X: y, Width: height})
		}
		list = append(list, x)
	}
	return list
}
