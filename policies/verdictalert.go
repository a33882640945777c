package policies

import (
	"fmt"

	"github.com/assay-dev/assay/api"
)

// VerdictAlert is an api.VerdictAlert with the alert that it is over events of one CVE each.
type VerdictAlert struct {
	api.VerdictAlert
	Origin Origin
	// Alert fires once for each key of CVE and digest.
	Alert Alert
}

// verdictAlert checks a rule by what it is made of.
func (c checker) verdictAlert(v *VerdictAlert) {
	for i, r := range v.Spec.Results {
		c.oneOf(fmt.Sprintf("spec.results[%d]", i), string(r), string(api.Fail), string(api.Warned))
	}
	if len(v.Spec.Results) == 0 {
		v.Spec.Results = []api.Result{api.Fail}
	}
	v.Alert = Alert{GlobalAlert: api.GlobalAlert{Metadata: v.Metadata, Spec: api.GlobalAlertSpec{
		Description: v.Spec.Description, Summary: v.Spec.Summary, Severity: v.Spec.Severity, Period: v.Spec.Period,
		DataSet: DataSet, Query: v.Spec.Query, Substitutions: v.Spec.Substitutions, AggregateBy: []string{"cve", "digest"},
	}}}
	c.alert(&v.Alert)
	v.Origin = v.Alert.Origin
}
