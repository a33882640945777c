package reference

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
)

type object = map[string]any

// builtin maps "group/Kind" to the path of the pod template; a Pod is its own.
var builtin = map[string]string{
	"/Pod": "", "/ReplicationController": "spec.template",
	"apps/ReplicaSet": "spec.template", "apps/Deployment": "spec.template",
	"apps/StatefulSet": "spec.template", "apps/DaemonSet": "spec.template",
	"batch/Job": "spec.template", "batch/CronJob": "spec.jobTemplate.spec.template",
	"extensions/ReplicaSet": "spec.template", "extensions/Deployment": "spec.template", "extensions/DaemonSet": "spec.template",
}

// Admit decides a review: an AdmissionReview that may carry namespaceLabels.
func Admit(w World, review json.RawMessage, now time.Time) api.Decision {
	var doc object
	if err := json.Unmarshal(review, &doc); err != nil {
		return api.Decision{Judged: true, Message: err.Error()}
	}
	req, _ := doc["request"].(object)
	kind, _ := req["kind"].(object)
	group := text(kind, "group")
	obj, _ := req["object"].(object)
	old, hasOld := req["oldObject"].(object)
	meta, _ := obj["metadata"].(object)

	d := api.Decision{
		Kind: text(kind, "kind"), Namespace: text(req, "namespace"), Allowed: true, Images: []api.ImageDecision{},
		Name: cmp.Or(text(req, "name"), text(meta, "name"), text(meta, "generateName")),
	}
	pass := func(reason string) api.Decision {
		d.Reason = reason
		return d
	}

	op, sub := text(req, "operation"), text(req, "subResource")
	isPod := group == "" && d.Kind == "Pod"
	where, judged := w.placesOf(group, d.Kind)
	malformed := func(what string) api.Decision {
		d.Allowed, d.Judged, d.Message = false, true, "malformed: "+what
		return w.override(d, doc, meta, text(at(req, "userInfo"), "username"), now)
	}
	_, hasSchema := doc["schema"]
	switch {
	case hasSchema || !known(doc, "apiVersion", "admission.k8s.io/v1", "admission.k8s.io/v1beta1") || !known(doc, "kind", "AdmissionReview"):
		return api.Decision{Message: "no AdmissionReview"}
	case !slices.Contains([]string{"CREATE", "UPDATE", "DELETE", "CONNECT"}, op):
		return malformed("the operation")
	case d.Kind == "":
		return malformed("the kind")
	case op != "CREATE" && op != "UPDATE":
		return pass("operation")
	case sub != "" && sub != "ephemeralcontainers":
		return pass("subresource")
	case !judged:
		return pass("kind")
	case d.Namespace != "" && slices.Contains(w.excluded(), d.Namespace):
		return pass("namespace")
	}

	if _, isBuiltin := builtin[group+"/"+d.Kind]; isBuiltin && d.Namespace == "" {
		return malformed("no namespace")
	}
	child := op == "CREATE" && w.madeByController(meta, text(at(req, "userInfo"), "username"))
	run, err := where.find(obj)
	if err != nil {
		return malformed(err.Error())
	}
	containers := run.containers
	if child && w.children() == api.ChildrenTrusted {
		return pass("owner")
	}

	if named, known := w.ownerImages(doc, meta, d.Namespace); child && known && w.children() == api.ChildrenSameImages {
		containers = slices.DeleteFunc(containers, func(c api.Container) bool { return slices.Contains(named, c.Image) })
		if len(containers) == 0 {
			return pass("owner names all images")
		}
	}

	if op == "UPDATE" {
		ran, _ := where.find(old)
		had := func(image string) bool {
			return slices.ContainsFunc(ran.containers, func(c api.Container) bool { return c.Image == image })
		}
		var fresh []api.Container
		for _, c := range containers {
			if !had(c.Image) {
				fresh = append(fresh, c)
			}
		}
		deleting := hasOld && text(at(old, "metadata"), "deletionTimestamp") != ""
		switch {
		case deleting && len(fresh) == 0:
			return pass("being deleted")
		case isPod && hasOld:
			if len(fresh) == 0 {
				return pass("no new image")
			}
			containers = fresh
		case !isPod && hasOld && reflect.DeepEqual(where.values(obj), where.values(old)):
			return pass("template unchanged")
		}
	}

	d.Judged = true
	r := resource{global: d.Namespace == "", labels: []map[string]string{stringMap(meta["labels"])}}
	if w.Settings != nil && w.Settings.Spec.TemplateLabels {
		r.labels = append(r.labels, run.labels...)
	}
	switch given, present := doc["namespaceLabels"]; {
	case r.global:
		r.nsLabels, r.known = map[string]string{}, true
	case present && given == nil:
		r.known = false
	default:
		r.nsLabels, r.known = stringMap(given), true
		if _, has := r.nsLabels["kubernetes.io/metadata.name"]; !has {
			r.nsLabels["kubernetes.io/metadata.name"] = d.Namespace
		}
	}
	var before []api.Container
	if op == "UPDATE" && w.Settings != nil && w.Settings.Spec.AllowNoWorse {
		ran, _ := where.find(old)
		before = ran.containers
	}
	for _, c := range containers {
		i := w.decide(r, c, now, &d)
		if i.Action == api.Reject && i.Rule > 0 {
			for _, o := range before {
				if w.noWorse(r, c, o, i, now) {
					i.Action, i.CVEs, i.MoreCVEs, i.Reason = api.Allow, []string{}, 0, "no worse than "+o.Image
				}
			}
		}
		d.Images = append(d.Images, i)
		if i.Action == api.Reject {
			d.Allowed = false
		}
	}
	return w.override(d, doc, meta, text(at(req, "userInfo"), "username"), now)
}

// known says whether a member is absent, or one of some texts.
func known(o object, key string, texts ...string) bool {
	value, given := o[key]
	s, _ := value.(string)
	return !given || slices.Contains(texts, s)
}

// override admits what the policies reject where a right, a reason and an end say so.
func (w World) override(d api.Decision, doc, meta object, user string, now time.Time) api.Decision {
	annotations, _ := meta["annotations"].(object)
	reason := text(annotations, "assay.dev/override-reason")
	until, err := time.Parse(time.RFC3339, text(annotations, "assay.dev/override-until"))
	if granted, _ := doc["overrideGranted"].(bool); !d.Allowed && granted && reason != "" && err == nil && now.Before(until) {
		d.Allowed = true
		d.Override = &api.Overridden{By: user, Reason: reason}
	}
	return d
}

// noWorse says whether the image of c, which the decision rejects by a rule, is no
// worse a build of the same repository than that of o, which it replaces and which
// the same rule rejects.
func (w World) noWorse(r resource, c, o api.Container, rejected api.ImageDecision, now time.Time) bool {
	is, was := w.subjectOf(c.Image, ""), w.subjectOf(o.Image, "")
	if c.Container != o.Container || is == nil || was == nil || is.name != was.name {
		return false
	}
	var ignored api.Decision
	old := w.decide(r, o, now, &ignored)
	worth := map[api.Result]int{api.Pass: 1, api.Warned: 2, api.Fail: 3}
	if old.Action != api.Reject || old.Policy != rejected.Policy || old.Rule != rejected.Rule || worth[old.Result] == 0 || worth[rejected.Result] == 0 {
		return false
	}
	higher := rejected.MaxCVSS != nil && (old.MaxCVSS == nil || *rejected.MaxCVSS > *old.MaxCVSS)
	return worth[rejected.Result] <= worth[old.Result] && !higher
}

// resource is what policies select by.
type resource struct {
	global   bool
	labels   []map[string]string // of the object, and of its templates where these count
	nsLabels map[string]string
	known    bool
}

// decide judges one container's image and adds to the warnings and audit notes.
func (w World) decide(r resource, c api.Container, now time.Time, d *api.Decision) (out api.ImageDecision) {
	v := w.classify(w.subjectOf(c.Image, ""), now)
	out = api.ImageDecision{Container: c.Container, Image: c.Image, Digest: v.digest, Result: v.result, MaxCVSS: v.max, CVEs: []string{}}

	// Only an image that is refused is told its CVEs.
	defer func() {
		if out.Action == api.Reject {
			out.CVEs = append(out.CVEs, v.cves[:min(len(v.cves), 10)]...)
			out.MoreCVEs = len(v.cves) - len(out.CVEs)
		}
	}()
	for _, p := range w.sortedPolicies() {
		action, rule := p.verdict(r, c, v, now)
		if action == "" {
			continue
		}
		switch p.Metadata.Annotations[api.EnforcementAnnotation] {
		case api.Warn:
			if action == api.Reject {
				d.Warnings = append(d.Warnings, fmt.Sprintf("%s: policy %s rule %d would reject %s", c.Container, p.Metadata.Name, rule, c.Image))
			}
			continue
		case api.Audit:
			if action == api.Reject {
				d.Audit = append(d.Audit, fmt.Sprintf("%s: policy %s rule %d would reject %s", c.Container, p.Metadata.Name, rule, c.Image))
			}
			continue
		}
		out.Action, out.Policy, out.Rule = action, p.Metadata.Name, rule
		return out
	}
	out.Action = api.Allow
	if w.Settings != nil && w.Settings.Spec.DefaultAction == api.Reject {
		out.Action = api.Reject
	}
	return out
}

type policy api.ContainerAdmissionPolicy

func (w World) sortedPolicies() []policy {
	var all []policy
	for _, p := range w.Policies {
		all = append(all, policy(p))
	}
	slices.SortFunc(all, func(a, b policy) int {
		x, y := a.Spec.Order, b.Spec.Order
		switch {
		case x == nil && y != nil:
			return 1
		case x != nil && y == nil:
			return -1
		case x != nil && *x != *y:
			return cmp.Compare(*x, *y)
		}
		return strings.Compare(a.Metadata.Name, b.Metadata.Name)
	})
	return all
}

// verdict is the action of the first rule that matches, "" for none; an action
// with rule 0 is a refusal because namespace labels are not known.
func (p policy) verdict(r resource, c api.Container, v verdict, now time.Time) (string, int) {
	sel, err := parseSelector(p.Spec.Selector)
	if err != nil {
		panic(err)
	}
	ns, err := parseSelector(p.Spec.NamespaceSelector)
	if err != nil {
		panic(err)
	}
	if !slices.ContainsFunc(r.labels, func(l map[string]string) bool { return sel.matches(l, r.global) }) {
		return "", 0
	}
	if !r.known && ns.dependsOnLabels() {
		return api.Reject, 0
	}
	if !ns.matches(r.nsLabels, r.global) {
		return "", 0
	}
	for i, rule := range p.Spec.Rules {
		if holds(rule, c, v, now) {
			return rule.Action, i + 1
		}
	}
	return "", 0
}

func holds(rule api.Rule, c api.Container, v verdict, now time.Time) bool {
	if k := rule.ImagePath; k != nil {
		forms := []string{c.Image, c.Normal}
		if ref, err := api.ParseReference(c.Image); err == nil {
			forms = append(forms, ref.Canonical())
		}
		some := false
		for _, value := range k.Values {
			some = some || slices.ContainsFunc(forms, regexp.MustCompile(value).MatchString)
		}
		if some != (k.Operator == api.IsOneOf) {
			return false
		}
	}
	if k := rule.ImageScanStatus; k != nil {
		if slices.Contains(k.Values, string(v.result)) != (k.Operator == api.IsOneOf) {
			return false
		}
	}
	if k := rule.ImageLastScan; k != nil {
		if v.lastScan == nil {
			return false
		}
		var moment time.Time
		if k.Duration != nil {
			moment = now.UTC().AddDate(-k.Duration.Years, -k.Duration.Months, -k.Duration.Days)
		} else {
			var err error
			if moment, err = time.Parse(time.RFC3339, k.Time); err != nil {
				panic(err)
			}
		}
		if k.Operator == "gt" && !v.lastScan.After(moment) || k.Operator == "lt" && !v.lastScan.Before(moment) {
			return false
		}
	}
	return true
}

func (w World) excluded() []string {
	if w.Settings != nil && w.Settings.Spec.ExcludedNamespaces != nil {
		return *w.Settings.Spec.ExcludedNamespaces
	}
	return api.DefaultExcludedNamespaces()
}

// placesOf says where a kind has its images, and whether it is judged.
func (w World) placesOf(group, kind string) (places, bool) {
	if path, ok := builtin[group+"/"+kind]; ok {
		return places{templates: []string{path}}, true
	}
	if k := w.customKind(group, kind); k != nil {
		known, _ := k.Workload()
		return places{known.Templates, known.Images, known.References}, true
	}
	return places{}, false
}

func (w World) customKind(group, kind string) *api.CustomKind {
	if w.Settings != nil {
		for _, k := range w.Settings.Spec.CustomKinds {
			if k.APIGroup == group && k.Kind == kind {
				return &k
			}
		}
	}
	return nil
}

func (w World) children() string {
	if w.Settings == nil || w.Settings.Spec.Children == "" {
		return api.ChildrenTrusted
	}
	return w.Settings.Spec.Children
}

// ownerImages are those of the pod template of the owner that the document has beside the request, if that is
// the object that the controlling owner reference names.
func (w World) ownerImages(doc, meta object, namespace string) (images []string, known bool) {
	owner, _ := doc["owner"].(object)
	refs, _ := meta["ownerReferences"].([]any)
	for _, r := range refs {
		ref, _ := r.(object)
		if is, _ := ref["controller"].(bool); !is {
			continue
		}
		group, _, found := strings.Cut(text(ref, "apiVersion"), "/")
		ownGroup, _, ownFound := strings.Cut(text(owner, "apiVersion"), "/")
		if !found {
			group = ""
		}
		if !ownFound {
			ownGroup = ""
		}
		of, _ := owner["metadata"].(object)
		where, judged := w.placesOf(group, text(ref, "kind"))
		if !judged || group != ownGroup || text(ref, "kind") != text(owner, "kind") || text(ref, "name") != text(of, "name") ||
			text(ref, "uid") == "" || text(ref, "uid") != text(of, "uid") || text(of, "namespace") != "" && text(of, "namespace") != namespace {
			return nil, false
		}
		return where.named(owner)
	}
	return nil, false
}

// madeByController says whether the requester is a controller that makes
// resources for the controlling owner, and the owner's kind is judged.
func (w World) madeByController(meta object, user string) bool {
	refs, _ := meta["ownerReferences"].([]any)
	for _, r := range refs {
		ref, _ := r.(object)
		if is, _ := ref["controller"].(bool); !is {
			continue
		}
		group, _, found := strings.Cut(text(ref, "apiVersion"), "/")
		if !found {
			group = "" // "v1"
		}
		kind := text(ref, "kind")
		if _, ok := builtin[group+"/"+kind]; ok {
			users := api.DefaultControllers()
			if w.Settings != nil && len(w.Settings.Spec.Controllers) > 0 {
				users = w.Settings.Spec.Controllers
			}
			return slices.Contains(users, user)
		}
		k := w.customKind(group, kind)
		return k != nil && slices.Contains(k.Controllers, user)
	}
	return false
}
