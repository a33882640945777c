package registration

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/policies/selector"
)

// Scope is which requests the webhook is called for. A scope without rules is for none.
type Scope struct {
	Rules                             []admissionv1.RuleWithOperations
	NamespaceSelector, ObjectSelector *metav1.LabelSelector
	// Condition is a match condition in CEL; "" is none.
	Condition string
}

// Narrow is the scope of a set of policies: every request that one of them could
// say something about, in any mode, and as few others as selectors and a match
// condition can tell. What is left out would be allowed without a word. Where the default
// action is Reject or there is Rego of the user's own, only kinds and excluded
// namespaces are told apart.
//
// resource gives the plural name of a custom kind, as a RESTMapper knows it. Of a kind
// that it does not know, or that may be installed later, the table of known kinds tells
// it; any other takes its whole API group.
func Narrow(set *policies.Set, resource func(schema.GroupKind) (string, error)) Scope {
	reach, condition := anything(), ""
	if set.Settings.DefaultAction != api.Reject && len(set.Custom) == 0 {
		reach, condition = reachOf(set.Policies, set.Settings.TemplateLabels)
	}
	if reach.never || condition == never {
		return Scope{NamespaceSelector: &metav1.LabelSelector{}, ObjectSelector: &metav1.LabelSelector{}}
	}
	excluded := api.DefaultExcludedNamespaces()
	if set.Settings.ExcludedNamespaces != nil {
		excluded = *set.Settings.ExcludedNamespaces
	}
	return Scope{
		Rules:             rules(set.Settings.CustomKinds, resource),
		NamespaceSelector: reach.selector(true, excluding(excluded)...),
		ObjectSelector:    reach.selector(false),
		Condition:         condition,
	}
}

// within is the scope in those namespaces alone that the requirements select.
func (s Scope) within(namespaces []metav1.LabelSelectorRequirement) Scope {
	if len(namespaces) > 0 {
		selector := s.NamespaceSelector.DeepCopy()
		selector.MatchExpressions = append(selector.MatchExpressions, namespaces...)
		s.NamespaceSelector = selector
	}
	return s
}

// Requirements are those of a selector as kubectl takes it, such as "team, env in (a,b)".
func Requirements(selector string) ([]metav1.LabelSelectorRequirement, error) {
	parsed, err := metav1.ParseToLabelSelector(selector)
	if err != nil {
		return nil, err
	}
	list := parsed.MatchExpressions
	for _, key := range slices.Sorted(maps.Keys(parsed.MatchLabels)) {
		list = append(list, metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpIn, Values: []string{parsed.MatchLabels[key]}})
	}
	if len(list) == 0 {
		return nil, errors.New("it selects by nothing")
	}
	return list, nil
}

// reachOf is what any of the policies applies to. The condition is "" where the
// selectors say it all. Where labels of templates count, those of the object tell nothing apart.
func reachOf(list []policies.Policy, templates bool) (box, string) {
	all := box{never: true, exact: true}
	var conditions []cel
	for _, p := range list {
		resource, namespace := parse(p.Spec.Selector), parse(p.Spec.NamespaceSelector)
		if templates {
			resource = selector.All{}
		}
		all = all.or(boxOf(resource, false).and(boxOf(namespace, true)))
		conditions = append(conditions, and(celOf(resource, false), celOf(namespace, true)))
	}
	if all.exact && all.expressible() {
		return all, ""
	}
	return all, condition(conditions)
}

// parse takes what does not parse for all(), which loses nothing; a [policies.Set] has none such.
func parse(text string) selector.Node {
	node, err := selector.Parse(text)
	if err != nil {
		return selector.All{}
	}
	return node
}

// excluding leaves out namespaces, also where other requirements do: so the
// exclusions can be read off a registration.
func excluding(namespaces []string) []metav1.LabelSelectorRequirement {
	var names []string
	for _, n := range namespaces {
		if len(validation.IsDNS1123Label(n)) == 0 { // any other is no namespace, and the API server would refuse the selector
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return []metav1.LabelSelectorRequirement{{Key: metadataName, Operator: metav1.LabelSelectorOpNotIn, Values: slices.Compact(names)}}
}

const metadataName = "kubernetes.io/metadata.name"

// rules are for what is judged: docs/design/001-readings.md. Other versions of the
// built-in kinds come by matchPolicy Equivalent.
func rules(custom []api.CustomKind, resource func(schema.GroupKind) (string, error)) []admissionv1.RuleWithOperations {
	scope := admissionv1.AllScopes
	rule := func(group, version string, resources ...string) admissionv1.RuleWithOperations {
		return admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
			Rule:       admissionv1.Rule{APIGroups: []string{group}, APIVersions: []string{version}, Resources: resources, Scope: &scope},
		}
	}
	var out []admissionv1.RuleWithOperations
	builtin := map[string][]string{}
	for _, w := range api.BuiltinWorkloads() {
		if w.Group == "extensions" { // those of apps, which come as such
			continue
		}
		builtin[w.Group] = append(builtin[w.Group], w.Resource)
		if w.Kind == "Pod" {
			builtin[w.Group] = append(builtin[w.Group], w.Resource+"/ephemeralcontainers")
		}
	}
	for _, group := range slices.Sorted(maps.Keys(builtin)) {
		out = append(out, rule(group, "v1", slices.Sorted(slices.Values(builtin[group]))...))
	}
	groups := map[string][]string{}
	for _, k := range custom {
		w, _ := k.Workload()
		name := cmp.Or(w.Resource, "*")
		if resource != nil {
			if plural, err := resource(schema.GroupKind{Group: k.APIGroup, Kind: k.Kind}); err == nil && plural != "" {
				name = plural
			}
		}
		groups[k.APIGroup] = append(groups[k.APIGroup], name)
	}
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		resources := groups[group]
		slices.Sort(resources)
		if resources[0] == "*" { // nothing may stand beside it
			resources = resources[:1]
		}
		out = append(out, rule(group, "*", slices.Compact(resources)...))
	}
	return out
}
