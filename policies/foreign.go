package policies

import (
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/policies/query"
	"github.com/assay-dev/assay/stream"
	"go.yaml.in/yaml/v3"
)

// foreign says that an object is of another tool than Assay, and what is wrong with that here: it
// is of a kind that nothing here reads, or an alert about another data set. What is in a group of
// Assay's or looks like what it has is no such object, but a mistake: it must not be left out.
func foreign(d document, version, kind string) (fault Diagnostic, is bool) {
	at := stream.Member(d.node, "kind")
	if at == nil || at.Kind != yaml.ScalarNode || kind == "" {
		return fault, false
	}
	if _, ok := groupOf[kind]; !ok {
		switch group, _, _ := strings.Cut(version, "/"); group {
		case "", groupName(api.GroupPolicy), groupName(api.GroupAssay):
			return fault, false
		}
		for known := range groupOf {
			if alike(kind, known) {
				return fault, false
			}
		}
		return d.Fault(at, "kind", "unknown kind %q; known are %s", kind, knownKinds()), true
	}
	if kind != api.KindGlobalAlert && kind != api.KindGlobalAlertTemplate || version != api.GroupAlert {
		return fault, false
	}
	spec := stream.Member(d.node, "spec")
	if spec == nil || spec.Kind != yaml.MappingNode {
		return fault, false
	}
	set := stream.Member(spec, "dataSet")
	if set == nil || set.Kind != yaml.ScalarNode || set.ShortTag() != "!!str" || set.Value == "" || alike(set.Value, DataSet) || strings.HasPrefix(strings.ToLower(set.Value), DataSet[:4]) {
		return fault, false
	}
	return d.Fault(set, "spec.dataSet", "must be %s, the only data set here, not %q", DataSet, set.Value), true
}

func groupName(version string) string {
	group, _, _ := strings.Cut(version, "/")
	return group
}

// alike says that a text is a known one but for case and a few letters.
func alike(text, known string) bool {
	return query.EditDistance(strings.ToLower(text), strings.ToLower(known)) <= len(known)/5
}
