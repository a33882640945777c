package fleet

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/assay-dev/assay/api"
)

// Kinds of policies.
const (
	Prunable    = "prunable"    // anchored patterns with a literal prefix, which does not match
	Overlapping = "overlapping" // patterns that match every image; labels, status or time decide
	Unprunable  = "unprunable"  // patterns without a literal prefix
)

// Kinds are all kinds of policies.
var Kinds = []string{Prunable, Overlapping, Unprunable}

// Policy is a ContainerAdmissionPolicy whose selector, if any, is LabelKey in
// LabelValues: the form that every contender has its own way to say.
type Policy struct {
	api.ContainerAdmissionPolicy
	LabelKey    string
	LabelValues []string
}

// rulesPerPolicy: ten, of which those of the last policy decide.
const rulesPerPolicy = 10

// Team 7 is the one whose failed images the last policy of every set refuses.
const strictTeam = 7

// Policies are n policies of a kind. None but the last has a rule that a scanned
// image satisfies; its ninth rule allows, and its tenth refuses, images of one team.
func Policies(kind string, n int) []Policy {
	list := make([]Policy, n)
	for i := range list {
		order := float64(i)
		p := &list[i]
		p.APIVersion, p.Kind = "containersecurity.tigera.io/v1beta1", "ContainerAdmissionPolicy"
		p.Metadata.Name, p.Spec.Order = fmt.Sprintf("policy-%d", i), &order
		if kind == Overlapping && i%2 == 0 && i < n-1 {
			p.LabelKey, p.LabelValues = "tier", []string{fmt.Sprintf("gold-%d", i), fmt.Sprintf("silver-%d", i)}
			p.Spec.Selector = fmt.Sprintf("tier in {'%s'}", strings.Join(p.LabelValues, "', '"))
		}
		for j := range rulesPerPolicy {
			p.Spec.Rules = append(p.Spec.Rules, rule(kind, i, j))
		}
		if i == n-1 {
			team := fmt.Sprintf(`team-%d/`, strictTeam)
			prefix := `^registry\.example\.com/`
			if kind == Unprunable {
				prefix = `.*/`
			}
			p.Spec.Rules[8] = api.Rule{Action: api.Allow, ImagePath: oneOf(prefix + team + `app-[0-9]*11[:@]`)}
			p.Spec.Rules[9] = api.Rule{Action: api.Reject, ImagePath: oneOf(prefix + team + `.*`), ImageScanStatus: oneOf("Fail")}
		}
	}
	return list
}

func rule(kind string, i, j int) api.Rule {
	r := api.Rule{Action: api.Reject}
	switch kind {
	case Prunable:
		r.ImagePath = oneOf(fmt.Sprintf(`^registry\.example\.com/squad-%d-%d/`, i, j))
		r.ImageScanStatus = oneOf("Fail", "Unknown")
	case Overlapping:
		r.ImagePath = oneOf(`^registry\.example\.com/(team|squad)-[0-9]+/`)
		if r.ImageScanStatus = oneOf("Unknown"); j%2 == 1 {
			r.ImageScanStatus = oneOf("Pass", "Warn", "Fail")
			r.ImageLastScan = &api.TimeCriterion{Operator: "lt", Duration: &api.Duration{Days: 40 + 10*j + i}}
		}
	case Unprunable:
		r.ImagePath = oneOf(fmt.Sprintf(`.*/squad-%d-%d/.*`, i, j))
		if r.ImageScanStatus = oneOf("Fail", "Unknown"); j%2 == 1 {
			r.ImageScanStatus = oneOf("Pass", "Warn", "Fail")
		}
	}
	return r
}

func oneOf(values ...string) *api.ValuesCriterion {
	return &api.ValuesCriterion{Operator: api.IsOneOf, Values: values}
}

// Text writes policies, the alerts, and thresholds from which images are Warn and Fail, as
// one file of a policies folder.
func Text(list []Policy, warn, fail float64) ([]byte, error) {
	items := []any{api.Thresholds{
		TypeMeta: api.TypeMeta{APIVersion: "assay.dev/v1alpha1", Kind: "Thresholds"},
		Metadata: api.ObjectMeta{Name: "default"}, Spec: api.ThresholdsSpec{Warn: &warn, Fail: &fail},
	}}
	for _, p := range list {
		items = append(items, p.ContainerAdmissionPolicy)
	}
	for _, a := range Alerts() {
		items = append(items, a)
	}
	text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
	if err != nil {
		return nil, fmt.Errorf("writing policies: %w", err)
	}
	return text, nil
}
