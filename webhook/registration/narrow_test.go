package registration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	apicel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/object"
	webhookrules "k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/rules"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/policies/selector"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/test/corpus"
)

// setOf has a policy for each pair of selectors, "resource" or "resource | namespace", and settings.
func setOf(t testing.TB, settings *api.AdmissionSettings, selectors ...string) *policies.Set {
	t.Helper()
	var list []api.ContainerAdmissionPolicy
	for i, pair := range selectors {
		resource, namespace, _ := strings.Cut(pair, " | ")
		p := api.ContainerAdmissionPolicy{TypeMeta: api.TypeMeta{APIVersion: api.GroupPolicy, Kind: api.KindContainerAdmissionPolicy}}
		p.Metadata.Name, p.Spec.Selector, p.Spec.NamespaceSelector = fmt.Sprintf("p%d", i), resource, namespace
		list = append(list, p)
	}
	return parsed(t, settings, list)
}

// parsed has the policies refuse whatever their selectors match.
func parsed(t testing.TB, settings *api.AdmissionSettings, list []api.ContainerAdmissionPolicy) *policies.Set {
	t.Helper()
	items := []any{}
	for _, p := range list {
		p.Spec.Rules = []api.Rule{{Action: api.Reject}}
		items = append(items, p)
	}
	if settings != nil {
		items = append(items, settings)
	}
	text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
	if err != nil {
		t.Fatal(err)
	}
	set, err := policies.Parse("policies.json", text)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func settingsOf(spec api.AdmissionSettingsSpec) *api.AdmissionSettings {
	s := &api.AdmissionSettings{TypeMeta: api.TypeMeta{APIVersion: api.GroupAssay, Kind: api.KindAdmissionSettings}, Spec: spec}
	s.Metadata.Name = "default"
	return s
}

// plurals knows the custom kinds of the corpus, but for one.
func plurals(k schema.GroupKind) (string, error) {
	if k.Kind == "Fleet" {
		return "", errors.New("no such kind")
	}
	return strings.ToLower(k.Kind) + "s", nil
}

func TestNarrow(t *testing.T) {
	const excluded = "kubernetes.io/metadata.name notin (assay-system,kube-system)"
	app := func(is string) string {
		return "has(object.metadata.labels) && \"app\" in object.metadata.labels && object.metadata.labels[\"app\"]" + is
	}
	for _, c := range []struct {
		policies                     []string
		namespaces, objects, matches string
	}{
		{[]string{"all()"}, "", "", ""},
		{[]string{"app == 'a'", ""}, "", "", ""},
		{[]string{"app == 'a'"}, "", "app in (a)", ""},
		{[]string{"app == 'a'", "app in {'c', 'b'}"}, "", "app in (a,b,c)", ""},
		{[]string{"app != 'a' && has(app)"}, "", "app,app notin (a)", ""},
		{[]string{"app not in {'a','b'}", "app != 'a'"}, "", "app notin (a)", ""},
		{[]string{"!has(app)"}, "", "!app", ""},
		{[]string{"app == 'a' && tier == 'b'"}, "", "app in (a),tier in (b)", ""},
		{[]string{"app == 'a' && tier == 'b'", "tier == 'b' && app == 'c'"}, "", "app in (a,c),tier in (b)", ""},
		{[]string{"app == 'a' && tier == 'b'", "app == 'a'"}, "", "app in (a)", ""},
		{[]string{"!(app == 'a' || !has(tier))"}, "", "app notin (a),tier", ""},
		{[]string{"app == 'a' || app != 'a'"}, "", "", ""},
		{[]string{"app == 'it is'"}, "", "", app(` == "it is"`)},
		{[]string{"app == 'a' | env == 'prod'", "app == 'a' | env == 'stage'"}, "env in (prod,stage)", "app in (a)", ""},
		{[]string{" | kubernetes.io/metadata.name == 'prod'"}, "kubernetes.io/metadata.name in (prod)", "", ""},
		{[]string{" | kubernetes.io/metadata.name starts with 'prod-'"}, "kubernetes.io/metadata.name", "", `has(request.namespace) && request.namespace != '' && request.namespace.startsWith("prod-")`},
		{[]string{"app starts with 'a'"}, "", "app", app(`.startsWith("a")`)},
		{[]string{"!app contains 'a'"}, "", "", "!(" + app(`.contains("a")`) + ")"},
		{[]string{"app ends with 'é'"}, "", "app", app(`.endsWith("\u00e9")`)},
		{[]string{"app == 'a' || !has(app)"}, "", "", app(` == "a"`) + " || !(has(object.metadata.labels) && \"app\" in object.metadata.labels)"},
		{[]string{"app == 'a' | env == 'prod'", "app == 'b' | tenant == 'x'"}, "", "app in (a,b)", app(` == "a"`) + " || " + app(` == "b"`)},
		{[]string{"app == 'a' | env == 'prod'", "all() | env starts with 'p'"}, "env", "", ""},
		{[]string{"global()"}, "", "", "!(has(request.namespace) && request.namespace != '')"},
		{[]string{"!all()", "app == 'a' && app == 'b'", "app in {}"}, "none", "none", ""},
		{[]string{"!all()", "app == 'a'"}, "", "app in (a)", ""},
		{nil, "none", "none", ""},
	} {
		scope := Narrow(setOf(t, nil, c.policies...), plurals)
		if c.namespaces == "none" {
			if len(scope.Rules) > 0 {
				t.Errorf("%q: nothing matches, but the scope is %+v", c.policies, scope)
			}
			continue
		}
		namespaces := strings.Trim(c.namespaces+","+excluded, ",")
		if got := formatted(scope.NamespaceSelector); got != namespaces {
			t.Errorf("%q: namespaces %s, want %s", c.policies, got, namespaces)
		}
		if got := formatted(scope.ObjectSelector); got != c.objects {
			t.Errorf("%q: objects %s, want %s", c.policies, got, c.objects)
		}
		if scope.Condition != c.matches {
			t.Errorf("%q: condition\n%s, want\n%s", c.policies, scope.Condition, c.matches)
		}
	}
}

func formatted(s *metav1.LabelSelector) string {
	if len(s.MatchExpressions) == 0 {
		return ""
	}
	var out []string
	for _, r := range s.MatchExpressions {
		out = append(out, metav1.FormatLabelSelector(&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{r}}))
	}
	return strings.Join(out, ",")
}

// What selectors do not say decides.
func TestNarrowsNothingWhere(t *testing.T) {
	reject := settingsOf(api.AdmissionSettingsSpec{DefaultAction: api.Reject, ExcludedNamespaces: &[]string{"b", "a", "b", "no namespace"}})
	scope := Narrow(setOf(t, reject, "app == 'a'"), nil)
	if formatted(scope.NamespaceSelector) != "kubernetes.io/metadata.name notin (a,b)" || formatted(scope.ObjectSelector) != "" || scope.Condition != "" || len(scope.Rules) == 0 {
		t.Errorf("with Reject as the default: %+v", scope)
	}
	set := setOf(t, settingsOf(api.AdmissionSettingsSpec{ExcludedNamespaces: &[]string{}}), "app == 'a'")
	set.Custom = map[string]string{"mine.rego": "package assay.custom.mine\n\nreject contains \"x\" if input.name == \"x\"\n"}
	scope = Narrow(set, nil)
	if formatted(scope.NamespaceSelector) != "" || formatted(scope.ObjectSelector) != "" || len(scope.Rules) == 0 {
		t.Errorf("with Rego of the user's own: %+v", scope)
	}
}

func TestRules(t *testing.T) {
	kinds := settingsOf(api.AdmissionSettingsSpec{CustomKinds: []api.CustomKind{
		{APIGroup: "argoproj.io", Kind: "Rollout", PodTemplatePath: "spec.template"},
		{APIGroup: "argoproj.io", Kind: "AnalysisRun", PodTemplatePath: "spec.template"},
		{APIGroup: "example.com", Kind: "Fleet", PodTemplatePath: "spec.template"},
		{APIGroup: "example.com", Kind: "Boat", PodTemplatePath: "spec.template"},
	}})
	var got []string
	for _, r := range Narrow(setOf(t, kinds, ""), plurals).Rules {
		got = append(got, fmt.Sprintf("%v %v %v %v %s", r.Operations, r.APIGroups, r.APIVersions, r.Resources, *r.Scope))
	}
	want := []string{
		"[CREATE UPDATE] [] [v1] [pods pods/ephemeralcontainers replicationcontrollers] *",
		"[CREATE UPDATE] [apps] [v1] [daemonsets deployments replicasets statefulsets] *",
		"[CREATE UPDATE] [batch] [v1] [cronjobs jobs] *",
		"[CREATE UPDATE] [argoproj.io] [*] [analysisruns rollouts] *",
		"[CREATE UPDATE] [example.com] [*] [*] *",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the rules are\n%s", strings.Join(got, "\n"))
	}
}

// Of a kind that the cluster does not know yet the table has the plural name.
func TestRulesOfKnownKinds(t *testing.T) {
	kinds := settingsOf(api.AdmissionSettingsSpec{CustomKinds: []api.CustomKind{
		{APIGroup: "argoproj.io", Kind: "Rollout"}, {APIGroup: "argoproj.io", Kind: "Workflow"}, {APIGroup: "jobset.x-k8s.io", Kind: "JobSet"},
	}})
	none := func(schema.GroupKind) (string, error) { return "", errors.New("no such kind") }
	for _, resource := range []func(schema.GroupKind) (string, error){nil, none} {
		var got []string
		for _, r := range Narrow(setOf(t, kinds, ""), resource).Rules {
			if group := r.APIGroups[0]; strings.Contains(group, ".") {
				got = append(got, fmt.Sprintf("%s %v", group, r.Resources))
			}
		}
		if want := []string{"argoproj.io [rollouts workflows]", "jobset.x-k8s.io [jobsets]"}; !slices.Equal(got, want) {
			t.Errorf("the rules are %q", got)
		}
	}
}

// Where labels of templates count, those of the object leave nothing out.
func TestNarrowWithLabelsOfTemplates(t *testing.T) {
	settings := settingsOf(api.AdmissionSettingsSpec{TemplateLabels: true})
	for _, s := range []string{"app == 'a'", "app == 'a' && global()", "app starts with 'a'"} {
		scope := Narrow(setOf(t, settings, s), plurals)
		if len(scope.Rules) == 0 || formatted(scope.ObjectSelector) != "" || scope.Condition != "" {
			t.Errorf("%s: %+v", s, scope)
		}
	}
	scope := Narrow(setOf(t, settings, "app == 'a' | env == 'prod'"), plurals)
	if formatted(scope.ObjectSelector) != "" || !strings.HasPrefix(formatted(scope.NamespaceSelector), "env in (prod)") {
		t.Errorf("labels of namespaces: %+v", scope)
	}
}

// compiler is that of the API server for what is written anew.
var compiler = apicel.NewConditionCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))

// registered matches requests as the API server does.
type registered struct {
	webhook    admissionv1.ValidatingWebhook
	conditions matchconditions.Matcher
	compiled   error
}

func register(w admissionv1.ValidatingWebhook) *registered {
	r := &registered{webhook: w}
	var expressions []apicel.ExpressionAccessor
	for _, c := range w.MatchConditions {
		expressions = append(expressions, &matchconditions.MatchCondition{Name: c.Name, Expression: c.Expression})
		r.compiled = errors.Join(r.compiled, compileError(c.Expression))
	}
	r.conditions = matchconditions.NewMatcher(compiler.CompileCondition(expressions, apicel.OptionalVariableDeclarations{HasAuthorizer: true}, environment.StoredExpressions), nil, "webhook", "validating", w.Name)
	for _, s := range []*metav1.LabelSelector{w.NamespaceSelector, w.ObjectSelector} {
		if errs := metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, nil); len(errs) > 0 {
			r.compiled = errors.Join(r.compiled, errs.ToAggregate())
		}
	}
	return r
}

func compileError(expression string) error {
	compiler := apicel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	result := compiler.CompileCELExpression(&matchconditions.MatchCondition{Expression: expression}, apicel.OptionalVariableDeclarations{HasAuthorizer: true}, environment.NewExpressions)
	if result.Error != nil {
		return result.Error
	}
	return nil
}

func (r *registered) GetParsedObjectSelector() (labels.Selector, error) {
	return metav1.LabelSelectorAsSelector(r.webhook.ObjectSelector)
}

// calls says whether the API server calls the webhook for a request.
func (r *registered) calls(t *testing.T, a admission.Attributes, namespaceLabels map[string]string) bool {
	t.Helper()
	if !slices.ContainsFunc(r.webhook.Rules, func(rule admissionv1.RuleWithOperations) bool {
		return (&webhookrules.Matcher{Rule: rule, Attr: a}).Matches()
	}) {
		return false
	}
	namespaces, err := metav1.LabelSelectorAsSelector(r.webhook.NamespaceSelector)
	if err != nil {
		t.Fatal(err)
	}
	if a.GetNamespace() != "" && !namespaces.Matches(labels.Set(namespaceLabels)) {
		return false
	}
	if ok, err := (&object.Matcher{}).MatchObjectSelector(r, a); err != nil {
		t.Fatal(err)
	} else if !ok {
		return false
	}
	match := r.conditions.Match(context.Background(), &admission.VersionedAttributes{Attributes: a, VersionedObject: admission.NewLazyObject(a.GetObject()), VersionedOldObject: admission.NewLazyObject(a.GetOldObject()), VersionedKind: a.GetKind()}, nil, nil)
	if match.Error != nil {
		t.Fatalf("%s: %v", r.webhook.MatchConditions, match.Error)
	}
	return match.Matches
}

// request is what a corpus's AdmissionReview asks.
type request struct {
	attributes admission.Attributes
	in         review.Input
}

func requestOf(t *testing.T, text []byte, kinds review.Kinds) (request, bool) {
	t.Helper()
	in, err := review.FromAdmissionReview(text, kinds)
	if err != nil || len(in.Review.Malformed) > 0 {
		return request{}, false // no API server sends it
	}
	if in.Review.NamespaceLabels == nil {
		in.Review.NamespaceLabels = review.WithName(map[string]string{}, in.Review.Namespace) // it always knows them
	}
	var body struct {
		Request struct {
			Kind                         metav1.GroupVersionKind
			Resource                     metav1.GroupVersionResource
			Namespace, Name, SubResource string
			Operation                    admission.Operation
			Object, OldObject            map[string]any
		}
	}
	if err := json.Unmarshal(text, &body); err != nil {
		t.Fatal(err)
	}
	q := body.Request
	if q.Resource.Group == "extensions" { // by matchPolicy Equivalent it comes as one of apps
		q.Kind.Group, q.Kind.Version, q.Resource.Group, q.Resource.Version = "apps", "v1", "apps", "v1"
	}
	if (q.Operation == admission.Create || q.Operation == admission.Update) && q.Object["metadata"] == nil {
		return request{}, false // an API server sends the object, with its metadata
	}
	unstructuredOf := func(m map[string]any) runtime.Object {
		if m == nil {
			return nil
		}
		return &unstructured.Unstructured{Object: m}
	}
	return request{admission.NewAttributesRecord(unstructuredOf(q.Object), unstructuredOf(q.OldObject), schema.GroupVersionKind(q.Kind), q.Namespace, q.Name,
		schema.GroupVersionResource(q.Resource), q.SubResource, q.Operation, nil, false, nil), in}, true
}

func (s Scope) webhook() admissionv1.ValidatingWebhook {
	var w admissionv1.ValidatingWebhook
	s.apply(&w)
	return w
}

// Whatever the engine refuses or remarks, the API server asks it about; and of the rest it
// asks less than all.
func TestNeverNarrowerThanPolicies(t *testing.T) {
	asked, silent, refused := 0, 0, 0
	for seed := range uint64(150) {
		c := corpus.Generate(seed)
		if seed%4 > 0 { // few, and with selectors
			c.World.Policies = slices.DeleteFunc(c.World.Policies, func(p api.ContainerAdmissionPolicy) bool { return p.Spec.Selector+p.Spec.NamespaceSelector == "" })
			c.World.Policies = c.World.Policies[:min(1+int(seed%3), len(c.World.Policies))]
		}
		if c.World.Settings != nil && seed%5 > 0 {
			c.World.Settings.Spec.DefaultAction, c.World.Settings.Spec.TemplateLabels = api.Allow, false
		}
		set := parsed(t, c.World.Settings, c.World.Policies)
		bundle, err := bundles.Build(bundles.Content{Policies: set})
		if err != nil {
			t.Fatal(err)
		}
		e := engine.New(engine.Config{})
		if err := e.Load(context.Background(), bundle); err != nil {
			t.Fatal(err)
		}
		r := register(Narrow(set, plurals).webhook())
		if r.compiled != nil {
			t.Fatalf("seed %d: the API server would refuse it: %v", seed, r.compiled)
		}
		for _, other := range []uint64{0, 1000, 2000, 3000, 4000, 5000, 6000, 7000} {
			for _, text := range corpus.Generate(seed + other).Reviews {
				q, ok := requestOf(t, text, review.KindsOf(set.Settings))
				if !ok || q.in.Review.Namespace == "" { // an API server names the namespace of what is in one
					continue
				}
				d, err := e.Admit(context.Background(), q.in.Review, c.Now)
				if err != nil {
					t.Fatal(err)
				}
				speaks := !d.Allowed || len(d.Warnings) > 0 || len(d.Audit) > 0
				calls := r.calls(t, q.attributes, q.in.Review.NamespaceLabels)
				switch {
				case speaks && !calls:
					t.Errorf("seed %d: not asked about %s\npolicies %s\nwebhook %+v", seed, text, selectors(set), r.webhook)
				case speaks:
					refused++
				case calls:
					asked++
				default:
					silent++
				}
			}
		}
	}
	t.Logf("%d requests with something to say, %d asked in vain, %d not asked", refused, asked, silent)
	if refused < 500 || silent < asked {
		t.Error("the corpus shows little")
	}
}

func selectors(set *policies.Set) (out []string) {
	for _, p := range set.Policies {
		out = append(out, p.Spec.Selector+" | "+p.Spec.NamespaceSelector)
	}
	return out
}

// A registration that was widened takes what it took before, and what the new scope takes.
func TestWidenedTakesBoth(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	scope := func() (Scope, corpus.Case) {
		c := corpus.Generate(random.Uint64())
		if c.World.Settings != nil {
			c.World.Settings.Spec.DefaultAction = api.Allow
		}
		return Narrow(parsed(t, c.World.Settings, c.World.Policies[:random.IntN(3)%len(c.World.Policies)]), plurals), c
	}
	both := 0
	for range 200 {
		before, c := scope()
		next, _ := scope()
		w := before.webhook()
		next.widen(&w)
		again := *w.DeepCopy()
		next.widen(&again)
		before.widen(&again)
		if !equality.Semantic.DeepEqual(again, w) {
			t.Fatalf("widening again changes\n%+v to\n%+v", w, again)
		}
		wide, old, wanted := register(w), register(before.webhook()), register(next.webhook())
		for _, text := range c.Reviews {
			q, ok := requestOf(t, text, review.KindsOf(api.AdmissionSettingsSpec{}))
			if !ok {
				continue
			}
			needed := old.calls(t, q.attributes, q.in.Review.NamespaceLabels) || wanted.calls(t, q.attributes, q.in.Review.NamespaceLabels)
			if needed && !wide.calls(t, q.attributes, q.in.Review.NamespaceLabels) {
				t.Fatalf("not asked about %s\nbefore %+v\nnext %+v\nwidened %+v", text, before, next, w)
			}
			if needed {
				both++
			}
		}
	}
	if both < 200 {
		t.Errorf("only %d requests", both)
	}
}

// Exclusions of namespaces last while a registration is wide: an outage must not reach kube-system.
func TestWidenKeepsExclusions(t *testing.T) {
	for _, c := range []struct{ before, next, want string }{
		{"", "", "kubernetes.io/metadata.name notin (assay-system,kube-system)"},
		{" | env == 'a'", " | env == 'b'", "kubernetes.io/metadata.name notin (assay-system,kube-system)"},
		{" | kubernetes.io/metadata.name == 'a'", " | kubernetes.io/metadata.name != 'kube-system'", "kubernetes.io/metadata.name notin (assay-system,kube-system)"},
		{"!all()", " | env == 'b'", "env in (b),kubernetes.io/metadata.name notin (assay-system,kube-system)"},
	} {
		w := Narrow(setOf(t, nil, c.before), nil).webhook()
		Narrow(setOf(t, nil, c.next), nil).widen(&w)
		if got := formatted(w.NamespaceSelector); got != c.want {
			t.Errorf("%s and %s give %s", c.before, c.next, got)
		}
	}
	w := Narrow(setOf(t, settingsOf(api.AdmissionSettingsSpec{ExcludedNamespaces: &[]string{"a", "b"}}), ""), nil).webhook()
	Narrow(setOf(t, settingsOf(api.AdmissionSettingsSpec{ExcludedNamespaces: &[]string{"b", "c"}}), ""), nil).widen(&w)
	if got := formatted(w.NamespaceSelector); got != "kubernetes.io/metadata.name notin (b)" {
		t.Errorf("exclusions in common are %s", got)
	}
	w.NamespaceSelector = nil
	Narrow(setOf(t, nil, ""), nil).widen(&w)
	if got := formatted(w.NamespaceSelector); got != "" {
		t.Errorf("what was not excluded is now %s", got)
	}
}

// What the registration requires of namespaces, whatever policies say, stays while it is
// narrowed and widened.
func TestOnlyNamespaces(t *testing.T) {
	required, err := Requirements("team, apply-container-policies in (true,yes), tier=web")
	if err != nil {
		t.Fatal(err)
	}
	const always = "kubernetes.io/metadata.name notin (assay-system,kube-system),apply-container-policies in (true,yes),team,tier in (web)"
	scope := func(policies ...string) Scope { return Narrow(setOf(t, nil, policies...), nil).within(required) }
	w := scope(" | env == 'a'").webhook()
	if got := formatted(w.NamespaceSelector); got != "env in (a),"+always {
		t.Errorf("narrowed: %s", got)
	}
	for _, next := range []string{" | env == 'b'", "app == 'c'", ""} {
		scope(next).widen(&w)
		if got := formatted(w.NamespaceSelector); got != always {
			t.Errorf("widened by %q: %s", next, got)
		}
	}
	if all := Narrow(setOf(t, settingsOf(api.AdmissionSettingsSpec{DefaultAction: api.Reject}), ""), nil).within(required); formatted(all.NamespaceSelector) != always {
		t.Errorf("where all is judged: %s", formatted(all.NamespaceSelector))
	}
	// Who requires something else, or nothing, is asked about all.
	Narrow(setOf(t, nil, ""), nil).widen(&w)
	if got := formatted(w.NamespaceSelector); got != "kubernetes.io/metadata.name notin (assay-system,kube-system)" {
		t.Errorf("widened by all namespaces: %s", got)
	}
	for _, wrong := range []string{"", "a b", "in ()", "a=b c", "a in (x", "!!a"} {
		if list, err := Requirements(wrong); err == nil {
			t.Errorf("%q is %v", wrong, list)
		}
	}
}

// However large or deep selectors are, the API server takes the registration and evaluates it.
func TestBounds(t *testing.T) {
	var many []string
	for i := range 600 {
		many = append(many, fmt.Sprintf("'v%d'", i))
	}
	var prefixes, large []string
	for i := range 150 {
		prefixes = append(prefixes, fmt.Sprintf("app starts with 'value-%d'", i))
	}
	for i := range 5000 {
		large = append(large, fmt.Sprintf("a%d == 'x' && b starts with 'y%d'", i, i))
	}
	deep := func(n int) string {
		return strings.Repeat("(app contains 'a' && (tier contains 'b' || ", n) + "has(x)" + strings.Repeat("))", n)
	}
	for name, c := range map[string]struct {
		policies  []string
		condition bool
	}{
		"many values":        {[]string{"app in {" + strings.Join(many, ",") + "}"}, true},
		"many values left":   {[]string{"app not in {" + strings.Join(many, ",") + "} && app != 'x'"}, true},
		"many values joined": {[]string{"app in {" + strings.Join(many[:400], ",") + "}", "app in {" + strings.Join(many[200:], ",") + "}"}, true},
		"a long disjunction": {prefixes, true},
		"too large":          {large, false},
		"a long value":       {[]string{"app contains '" + strings.Repeat("x", selector.MaxLength-100) + "'"}, false},
		"deep":               {[]string{deep(40)}, true},
		"too deep":           {[]string{deep(60)}, false},
		"an odd key":         {[]string{"-./_ == 'x' && has(a/b/c)"}, true},
		"odd values":         {[]string{`app == 'a\"b' || app == "it's" || app contains '\' || tier == 'é` + "\u2028" + `'`}, true},
	} {
		t.Run(name, func(t *testing.T) {
			scope := Narrow(setOf(t, nil, c.policies...), nil)
			if (scope.Condition != "") != c.condition {
				t.Errorf("the condition is %.100s", scope.Condition)
			}
			r := register(scope.webhook())
			if r.compiled != nil {
				t.Fatalf("the API server would refuse it: %v", r.compiled)
			}
			for _, labels := range []map[string]any{nil, {}, {"app": strings.Repeat("x", 63), "tier": strings.Repeat("y", 63), "b": strings.Repeat("y", 63)}} {
				pod := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "p"}}}
				if labels != nil {
					pod.Object["metadata"].(map[string]any)["labels"] = labels
				}
				r.calls(t, admission.NewAttributesRecord(pod, nil, schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, "default", "p",
					schema.GroupVersionResource{Version: "v1", Resource: "pods"}, "", admission.Create, nil, false, nil), nil)
			}
		})
	}
}
