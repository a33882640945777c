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
	var counts server.CountList
	if err := c.get(r, "/counts", nil, &counts); err != nil {
		return nil, err
	}
	b.All, b.AllTotal = bars(counts.Counts, "/images")
	counts = server.CountList{}
	if err := c.get(r, "/counts", url.Values{"running": {"true"}}, &counts); err != nil {
		return nil, err
	}
	b.Running, b.RunningTotal = bars(counts.Counts, "/images", "running", "true")
	b.Empty = b.AllTotal == 0
	var worst store.List[store.Image]
	if err := c.get(r, "/images", url.Values{"running": {"true"}, "sort": {"-score"}, "limit": {"8"}, "result": {"Fail,Warn"}}, &worst); err != nil {
		return nil, err
	}
	b.Worst = worst.Items
	var firing server.Items[store.Episode]
	if err := c.get(r, "/alerts", url.Values{"firing": {"true"}, "limit": {"8"}}, &firing); err != nil {
		return nil, err
	}
	b.Firing = firing.Items
	var all server.Items[server.ListedException]
	if err := c.get(r, "/exceptions", url.Values{"inForce": {"true"}}, &all); err != nil {
		return nil, err
	}
	for _, e := range all.Items {
		if end, ok := timeOf(e.Spec.Expires); ok && end.Sub(c.Now()) < soon && len(b.Ending) < 8 {
			b.Ending = append(b.Ending, e)
		}
	}
	var exploited store.List[store.Vulnerability]
	if err := c.get(r, "/vulnerabilities", url.Values{"kev": {"true"}, "sort": {"-images"}, "limit": {"8"}}, &exploited); err != nil {
		return nil, err
	}
	b.Exploited = exploited.Items
	var events store.List[store.StoredEvent]
	if err := c.get(r, "/events", url.Values{"changed": {"true"}, "limit": {"10"}}, &events); err != nil {
		return nil, err
	}
	b.Changes = events.Items
	var found server.Items[store.NewVulnerability]
	if err := c.get(r, "/new-vulnerabilities", url.Values{"limit": {"8"}}, &found); err != nil {
		return nil, err
	}
	b.New = found.Items
	var trend server.Items[store.TrendDay]
	if err := c.get(r, "/trend", url.Values{"days": {"60"}}, &trend); err != nil {
		return nil, err
	}
	b.Trend = trendOf(trend.Items)
	if err := c.get(r, "/version", nil, &b.Version); err != nil {
		return nil, err
	}
	b.DatabaseOld = b.Version.Database != nil && c.Now().Sub(b.Version.Database.Built) > 5*24*time.Hour
	var clusters server.Items[store.Cluster]
	if err := c.get(r, "/clusters", nil, &clusters); err != nil {
		return nil, err
	}
	b.Clusters = clusters.Items
	var list server.Items[jobs.Job]
	if err := c.get(r, "/jobs", url.Values{"limit": {"200"}}, &list); err != nil {
		return nil, err
	}
	b.Queue = map[string]int{}
	for _, j := range list.Items {
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
