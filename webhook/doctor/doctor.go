// Package doctor examines an installation of the admission webhook from outside, and
// says what is wrong with it and what to do.
package doctor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/assay-dev/assay/api"
)

// Config says what to examine, and how to reach it.
type Config struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// Namespace, Service and Registration are those of the installation.
	Namespace, Service, Registration string
	// Now is the clock; nil is the usual one.
	Now func() time.Time
}

// States of a check.
const (
	OK   = "ok"
	Warn = "warn" // works, and will or may not
	Fail = "fail"
)

// Check is one thing that was looked at.
type Check struct {
	Name    string `json:"name"`
	State   string `json:"state"`
	Message string `json:"message"`
	// Remedy says what to do about it; empty where all is well.
	Remedy string `json:"remedy,omitempty"`
}

// Schema marks a Report.
const Schema = "assay.dev/doctor/v1"

// Report is the document of `assay doctor -o json`.
type Report struct {
	Schema string  `json:"schema"`
	OK     bool    `json:"ok"` // no check failed
	Checks []Check `json:"checks"`
}

// soon is how long before its end a certificate is worth a warning.
const soon = 14 * 24 * time.Hour

type doctor struct {
	Config
	ctx    context.Context
	report Report
}

// Examine makes all checks. The error is that the cluster cannot be reached.
func Examine(ctx context.Context, c Config) (Report, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	d := &doctor{Config: c, ctx: ctx, report: Report{Schema: Schema, OK: true}}
	version, err := c.Client.Discovery().ServerVersion()
	if err != nil {
		return d.report, fmt.Errorf("reaching the cluster: %w", err)
	}
	d.ok("API server", "Kubernetes %s", version.GitVersion)
	d.definitions()
	d.registration()
	d.replicas()
	d.age()
	d.policies()
	return d.report, nil
}

func (d *doctor) ok(name, format string, args ...any) {
	d.report.Checks = append(d.report.Checks, Check{Name: name, State: OK, Message: fmt.Sprintf(format, args...)})
}

func (d *doctor) warn(name, remedy, format string, args ...any) {
	d.report.Checks = append(d.report.Checks, Check{Name: name, State: Warn, Message: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (d *doctor) fail(name, remedy, format string, args ...any) {
	d.report.OK = false
	d.report.Checks = append(d.report.Checks, Check{Name: name, State: Fail, Message: fmt.Sprintf(format, args...), Remedy: remedy})
}

var definitionResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// definitions looks for the kinds.
func (d *doctor) definitions() {
	var missing []string
	for _, name := range []string{"containeradmissionpolicies.containersecurity.tigera.io", "vulnerabilityexceptions.assay.dev", "thresholds.assay.dev", "admissionsettings.assay.dev", "verdictalerts.assay.dev"} {
		o, err := d.Dynamic.Resource(definitionResource).Get(d.ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			missing = append(missing, name)
		case err != nil:
			d.fail("definitions", "give who asks the right to get customresourcedefinitions", "%s: %v", name, err)
			return
		case !condition(o, "Established"):
			d.fail("definitions", "kubectl describe crd "+name, "%s is not established", name)
		}
	}
	if len(missing) > 0 {
		d.warn("definitions", "kubectl apply -f deploy/crds, unless policies come from a server or a folder alone", "not defined: %s", strings.Join(missing, ", "))
		return
	}
	d.ok("definitions", "all kinds are defined")
}

func condition(o *unstructured.Unstructured, kind string) bool {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	return slices.ContainsFunc(list, func(x any) bool {
		c, _ := x.(map[string]any)
		return c["type"] == kind && c["status"] == "True"
	})
}

func (d *doctor) registration() {
	const name = "registration"
	c, err := d.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(d.ctx, d.Registration, metav1.GetOptions{})
	if err != nil {
		d.fail(name, "install the chart, or name it with --registration", "ValidatingWebhookConfiguration %s: %v", d.Registration, err)
		return
	}
	at := slices.IndexFunc(c.Webhooks, func(w admissionv1.ValidatingWebhook) bool { return w.Name == "workloads.assay.dev" })
	if at < 0 {
		d.fail(name, "install the chart again", "%s has no webhook workloads.assay.dev", d.Registration)
		return
	}
	w := c.Webhooks[at]
	var missed []string
	for _, k := range api.BuiltinWorkloads() {
		if k.Group == "extensions" { // those of apps, by an old version
			continue
		}
		for _, op := range []admissionv1.OperationType{admissionv1.Create, admissionv1.Update} {
			if !covered(w.Rules, k.Group, k.Resource, op) {
				missed = append(missed, fmt.Sprintf("%s of %s", op, strings.TrimPrefix(k.Group+"/"+k.Resource, "/")))
			}
		}
	}
	const ephemeral = "pods/ephemeralcontainers"
	if !covered(w.Rules, "", ephemeral, admissionv1.Update) {
		missed = append(missed, fmt.Sprintf("%s of %s", admissionv1.Update, ephemeral))
	}
	missed = append(missed, d.customKinds(w.Rules)...)
	slices.Sort(missed)
	switch {
	case len(missed) > 0 && !slices.ContainsFunc(w.MatchConditions, func(m admissionv1.MatchCondition) bool { return m.Name == "policies.assay.dev" }):
		d.fail(name, "install the chart again", "the webhook is not asked about: %s", strings.Join(missed, ", "))
	default:
		d.ok(name, "the webhook is asked about all kinds")
	}
	if w.FailurePolicy != nil && *w.FailurePolicy == admissionv1.Ignore {
		d.warn("failure policy", "set failurePolicy: Fail", "Ignore: while the webhook does not answer, everything is admitted")
	} else {
		d.ok("failure policy", "Fail")
	}
	if w.MatchPolicy != nil && *w.MatchPolicy == admissionv1.Exact {
		d.fail("match policy", "set matchPolicy: Equivalent", "Exact: a workload by another API version is not judged")
	}
	if !excludes(w.NamespaceSelector, d.Namespace) {
		d.warn("own namespace", "exclude it by a namespaceSelector on kubernetes.io/metadata.name", "namespace %s is judged by the webhook that runs in it: it may keep itself from starting", d.Namespace)
	}
	d.namespaces(w.NamespaceSelector)
	d.labels(c.Webhooks)
	d.authority(w.ClientConfig.CABundle)
}

var settingsResource = schema.GroupVersionResource{Group: "assay.dev", Version: "v1alpha1", Resource: "admissionsettings"}

// customKinds are the kinds of the cluster's AdmissionSettings that the webhook is not asked about.
func (d *doctor) customKinds(rules []admissionv1.RuleWithOperations) (missed []string) {
	o, err := d.Dynamic.Resource(settingsResource).Get(d.ctx, "default", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	var settings api.AdmissionSettings
	if err == nil {
		var text []byte
		if text, err = o.MarshalJSON(); err == nil {
			err = json.Unmarshal(text, &settings)
		}
	}
	if err != nil {
		d.warn("custom kinds", "", "AdmissionSettings cannot be read, so that it is not known whether all of their kinds are judged: %v", err)
		return nil
	}
	for _, k := range settings.Spec.CustomKinds {
		w, _ := k.Workload()
		for _, op := range []admissionv1.OperationType{admissionv1.Create, admissionv1.Update} {
			ofGroup := func(r admissionv1.RuleWithOperations) bool {
				return slices.ContainsFunc(r.APIGroups, func(g string) bool { return g == k.APIGroup || g == "*" }) &&
					slices.ContainsFunc(r.Operations, func(o admissionv1.OperationType) bool { return o == op || o == admissionv1.OperationAll })
			}
			// Of a kind that the table does not have, the plural name is not known: some rule of its group must do.
			if w.Resource != "" && !covered(rules, k.APIGroup, w.Resource, op) || !slices.ContainsFunc(rules, ofGroup) {
				missed = append(missed, fmt.Sprintf("%s of %s", op, strings.TrimPrefix(k.APIGroup+"/"+cmp.Or(w.Resource, k.Kind), "/")))
			}
		}
	}
	return missed
}

// shownNamespaces is how many are named of those that are not judged.
const shownNamespaces = 5

// namespaces says whose workloads the webhook is not asked about.
func (d *doctor) namespaces(s *metav1.LabelSelector) {
	const name = "namespaces"
	selector, err := metav1.LabelSelectorAsSelector(s)
	if s == nil {
		selector = labels.Everything()
	}
	if err != nil {
		d.fail(name, "install the chart again", "the namespaceSelector cannot be read: %v", err)
		return
	}
	list, err := d.Client.CoreV1().Namespaces().List(d.ctx, metav1.ListOptions{})
	if err != nil {
		d.warn(name, "", "namespaces cannot be read, so that it is not known whose workloads are judged: %v", err)
		return
	}
	var left []string
	for _, n := range list.Items {
		if !selector.Matches(labels.Set(n.Labels)) {
			left = append(left, n.Name)
		}
	}
	slices.Sort(left)
	text := fmt.Sprintf("those of %d of %d namespaces are judged", len(list.Items)-len(left), len(list.Items))
	if len(left) > 0 {
		text += "; not those of " + strings.Join(left[:min(len(left), shownNamespaces)], ", ")
	}
	if more := len(left) - shownNamespaces; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if len(left) == len(list.Items) && len(left) > 0 {
		d.warn(name, "label the namespaces that are to be judged, or change webhook.namespaceSelector of the chart", "%s", text)
		return
	}
	d.ok(name, "%s", text)
}

// labels looks whether each way to write a namespace's labels is guarded.
func (d *doctor) labels(webhooks []admissionv1.ValidatingWebhook) {
	const name = "namespace labels"
	var missed []string
	for _, way := range []struct {
		op       admissionv1.OperationType
		resource string
	}{{admissionv1.Create, "namespaces"}, {admissionv1.Update, "namespaces"}, {admissionv1.Update, "namespaces/status"}, {admissionv1.Update, "namespaces/finalize"}} {
		if !slices.ContainsFunc(webhooks, func(w admissionv1.ValidatingWebhook) bool { return covered(w.Rules, "", way.resource, way.op) }) {
			missed = append(missed, fmt.Sprintf("%s of %s", way.op, way.resource))
		}
	}
	if len(missed) > 0 {
		d.warn(name, "install the chart again, or keep namespaces and their subresources from tenants by RBAC", "who may write a namespace can choose its policies: the webhook is not asked about %s", strings.Join(missed, ", "))
		return
	}
	d.ok(name, "only who may override policies changes those that policies look at")
}

func covered(rules []admissionv1.RuleWithOperations, group, resource string, op admissionv1.OperationType) bool {
	return slices.ContainsFunc(rules, func(r admissionv1.RuleWithOperations) bool {
		has := func(list []string, values ...string) bool {
			return slices.ContainsFunc(values, func(v string) bool { return slices.Contains(list, v) })
		}
		wanted := []string{resource, "*/*"}
		if main, sub, isSub := strings.Cut(resource, "/"); isSub {
			wanted = append(wanted, main+"/*", "*/"+sub)
		} else {
			wanted = append(wanted, "*")
		}
		return (slices.Contains(r.Operations, op) || slices.Contains(r.Operations, admissionv1.OperationAll)) && has(r.APIGroups, group, "*") && has(r.Resources, wanted...)
	})
}

func excludes(s *metav1.LabelSelector, namespace string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && s != nil && !selector.Matches(labels.Set{corev1.LabelMetadataName: namespace})
}

// authority checks who the API server trusts, and that the webhook's certificate is theirs.
func (d *doctor) authority(bundle []byte) {
	const name, remedy = "certificate", "look at the log of the webhook, or of cert-manager; --issue-certificate with --registration keeps it"
	pool, now := x509.NewCertPool(), d.Now()
	count := 0
	for rest := bundle; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if ca, err := x509.ParseCertificate(block.Bytes); err == nil && now.Before(ca.NotAfter) {
			pool.AddCert(ca)
			count++
		}
	}
	if count == 0 {
		d.fail(name, remedy, "the registration has no authority that is still good: the API server cannot trust the webhook")
		return
	}
	secrets, err := d.Client.CoreV1().Secrets(d.Namespace).List(d.ctx, metav1.ListOptions{})
	if err != nil {
		d.warn(name, "", "the Secrets of %s cannot be read, so that the certificate is not checked: %v", d.Namespace, err)
		return
	}
	host := d.Service + "." + d.Namespace + ".svc"
	for _, s := range secrets.Items {
		block, _ := pem.Decode(s.Data[corev1.TLSCertKey])
		if block == nil {
			continue
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil || leaf.VerifyHostname(host) != nil {
			continue
		}
		_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, DNSName: host})
		left := leaf.NotAfter.Sub(now)
		switch {
		case err != nil:
			d.fail(name, remedy, "the API server does not trust the certificate in Secret %s: %v", s.Name, err)
		case left < soon:
			d.warn(name, remedy, "the certificate in Secret %s ends in %s", s.Name, left.Round(time.Hour))
		default:
			d.ok(name, "good until %s", leaf.NotAfter.UTC().Format(time.DateOnly))
		}
		return
	}
	d.warn(name, "", "no Secret of %s has a certificate for %s", d.Namespace, host)
}

// replicas looks at what stands behind the Service.
func (d *doctor) replicas() {
	const name = "replicas"
	if _, err := d.Client.CoreV1().Services(d.Namespace).Get(d.ctx, d.Service, metav1.GetOptions{}); err != nil {
		d.fail(name, "install the chart, or name it with --service and --namespace", "Service %s/%s: %v", d.Namespace, d.Service, err)
		return
	}
	slicesOf, err := d.Client.DiscoveryV1().EndpointSlices(d.Namespace).List(d.ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + d.Service})
	if err != nil {
		d.fail(name, "give who asks the right to list endpointslices", "%v", err)
		return
	}
	ready, nodes, waiting := 0, map[string]bool{}, 0
	for _, s := range slicesOf.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				waiting++
				continue
			}
			ready += len(e.Addresses)
			if e.NodeName != nil {
				nodes[*e.NodeName] = true
			}
		}
	}
	switch {
	case ready == 0:
		d.fail(name, fmt.Sprintf("kubectl -n %s get pods, and the log of the webhook: /readyz says what is missing", d.Namespace), "no replica is ready, %d are not", waiting)
	case ready == 1:
		d.warn(name, "run at least two", "one replica is ready: while it is away, the failure policy decides")
	case len(nodes) == 1:
		d.warn(name, "spread them over nodes", "%d replicas are ready, all on one node", ready)
	default:
		d.ok(name, "%d replicas are ready on %d nodes", ready, len(nodes))
	}
}

// age asks the replicas how old what they decide by is, which those that follow a server say.
func (d *doctor) age() {
	const name, remedy = "age of the data", "look at the log of the webhook, and at the server's /readyz"
	list, err := d.Client.DiscoveryV1().EndpointSlices(d.Namespace).List(d.ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + d.Service})
	if err != nil {
		return // replicas has said so
	}
	var said []string
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			if e.TargetRef == nil || e.TargetRef.Kind != "Pod" || len(s.Ports) == 0 || s.Ports[0].Port == nil || e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			pod := e.TargetRef.Name
			text, err := d.Client.CoreV1().Pods(d.Namespace).ProxyGet("https", pod, fmt.Sprint(*s.Ports[0].Port), "readyz", nil).DoRaw(d.ctx)
			if err != nil {
				d.warn(name, "give who asks the right to get pods/proxy", "%s cannot be asked: %v", pod, err)
				continue
			}
			for _, line := range strings.Split(string(text), "\n")[1:] {
				if warning, ok := strings.CutPrefix(line, "warning: "); ok {
					d.warn(name, remedy, "%s: %s", pod, warning)
				} else if line != "" {
					said = append(said, pod+": "+line)
				}
			}
		}
	}
	if len(said) > 0 {
		d.ok(name, "%s", strings.Join(said, "; "))
	}
}

var policyResource = schema.GroupVersionResource{Group: "containersecurity.tigera.io", Version: "v1beta1", Resource: "containeradmissionpolicies"}

// policies looks for those that are not in force.
func (d *doctor) policies() {
	const name = "policies"
	list, err := d.Dynamic.Resource(policyResource).List(d.ctx, metav1.ListOptions{Limit: 10_000})
	if err != nil {
		if !apierrors.IsNotFound(err) {
			d.warn(name, "", "they cannot be listed: %v", err)
		}
		return
	}
	bad, silent := 0, 0
	for _, o := range list.Items {
		var status struct {
			Compiled           *bool
			ObservedGeneration int64
			Errors             []struct{ Path, Message string }
		}
		text, err := json.Marshal(o.Object["status"])
		if err == nil {
			err = json.NewDecoder(bytes.NewReader(text)).Decode(&status)
		}
		switch {
		case err != nil || status.Compiled == nil || status.ObservedGeneration != o.GetGeneration():
			silent++
		case !*status.Compiled:
			bad++
			var why []string
			for _, e := range status.Errors {
				why = append(why, strings.TrimPrefix(e.Path+": "+e.Message, ": "))
			}
			d.fail(name, "kubectl edit containeradmissionpolicy "+o.GetName(), "%s does not compile, and its last good version is in force: %s", o.GetName(), strings.Join(why, "; "))
		}
	}
	if silent > 0 {
		d.warn(name, "run the webhook or the server with --cluster-policies, or delete them", "nobody took up %d of %d policies in the cluster", silent, len(list.Items))
	}
	if bad+silent == 0 {
		d.ok(name, "%d policies in the cluster, all in force", len(list.Items))
	}
}
