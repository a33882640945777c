package fleet

import (
	"fmt"
	"time"

	"github.com/assay-dev/assay/api"
)

// eventCVEs: an event lists this many of its image's CVEs, the first ones of its base.
const eventCVEs = 20

// Events are n scans of the last 20 minutes, half of them in the window of the alerts.
func (f *Fleet) Events(n int) []api.Event {
	events := make([]api.Event, n)
	results := []api.Result{api.Pass, api.Warned, api.Fail}
	for i := range events {
		r := f.rand(i, 7)
		image := r.IntN(f.Images)
		base := f.base(image)
		top := caps[f.class[base]] - 0.2
		registry, repository, tag := f.Image(image)
		e := &events[i]
		*e = api.Event{
			Time:     Now.Add(-time.Duration(r.Int64N(int64(20 * time.Minute)))).Format(time.RFC3339Nano),
			Registry: registry, Repository: repository, Tag: tag, Digest: fmt.Sprintf("sha256:%064x", image), Image: f.Tagged(image),
			Result: results[f.class[base]], MaxCVSSScore: &top, Changed: r.IntN(10) == 0, Fixable: true, Package: []string{"openssl"},
			Instances: []api.Instance{{Cluster: "east", Namespace: fmt.Sprintf("ns-%d", r.IntN(40)), Pod: fmt.Sprintf("pod-%d", i), Container: "web"}},
		}
		for _, cve := range f.bases[base][:min(eventCVEs, len(f.bases[base]))] {
			e.CVE = append(e.CVE, CVE(cve))
		}
	}
	return events
}

// AlertCVE is what the third of the alerts looks for.
var AlertCVE = CVE(3)

// Alerts are three: a count by namespace, a maximum over all, and one for every
// changed event with a CVE.
func Alerts() []api.GlobalAlert {
	hundred, ten := 100.0, 9.5
	list := []api.GlobalAlertSpec{
		{Query: "result = Fail", AggregateBy: []string{"namespace"}, Metric: "count", Condition: "gt", Threshold: &hundred},
		{Query: "result != Pass", Metric: "max", Field: "max_cvss_score", Condition: "gte", Threshold: &ten},
		{Query: fmt.Sprintf(`cve = "%s" AND changed = true`, AlertCVE)},
	}
	alerts := make([]api.GlobalAlert, len(list))
	for i, spec := range list {
		spec.Description, spec.Severity, spec.DataSet, spec.Lookback = "an alert of the benchmark", 50, "vulnerability", "10m"
		alerts[i].APIVersion, alerts[i].Kind = "projectcalico.org/v3", "GlobalAlert"
		alerts[i].Metadata.Name, alerts[i].Spec = fmt.Sprintf("alert-%d", i), spec
	}
	return alerts
}
