package deploy

import (
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	release "helm.sh/helm/v4/pkg/release/v1/util"
)

const chartDir = root + "/deploy/charts/assay"

var update = flag.Bool("update", false, "write deploy/kubernetes/assay.yaml anew")

// valueSets are installations that must render; each choice of the values is in one.
var valueSets = map[string]string{
	"default": ``,
	"scans": `
policies: {scansConfigMap: assay-scans}
webhook: {narrowRegistration: true, logLevel: debug, namespaceSelector: {key: apply-container-policies, values: [true, staging]}}`,
	"server": `
policies: {source: server, configMap: assay-policies}
server: {enabled: true, notifications: {secretName: receivers}, reports: {enabled: true, caBundle: QQ==}, storage: {size: 1Gi, storageClassName: fast}}
registryScan: {enabled: true, registry: registry.example.com/shop, include: [':\d'], exclude: ['^shop/scratch', 'a"b: #'], dockerConfigSecretName: registry, serviceAccountAnnotations: {a: b}, env: [{name: AZURE_CLIENT_ID, value: x}], storage: {storageClassName: fast}, nodeSelector: {a: b}, tolerations: [{operator: Exists}], podAnnotations: {a: b}, extraArgs: [--rate=10]}
webhook: {namespaceSelector: {key: example.com/image-assurance}, scanOnSight: true, resolveTags: [registry.example.com, "*"], registryNetworks: [10.0.0.0/8], excludedNamespaces: [calico-system]}
node: {enabled: true}
images: {pullSecrets: [registry], webhook: {digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}, server: {tag: "1.2.3"}}`,
	"postgresql": `
certificates: {issuer: cert-manager}
policies: {source: server}
server: {enabled: true, replicas: 3, databaseUpdate: false, postgresql: {secretName: assay-postgresql}, reports: {enabled: true}, priorityClassName: high, nodeSelector: {a: b}, tolerations: [{operator: Exists}], podAnnotations: {a: b}, extraArgs: ["--git=https://git.example.com/policies.git"]}
webhook: {nodeSelector: {a: b}, tolerations: [{operator: Exists}], podAnnotations: {a: b}, resources: {limits: {memory: 1Gi}}}
networkPolicy: {apiServerCIDRs: [10.0.0.1/32, 10.0.0.2/32], webhookFrom: [{ipBlock: {cidr: 10.0.0.10/32}}, {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: konnectivity-agent}}}]}`,
	"elsewhere": `
certificates: {issuer: cert-manager, issuerRef: {name: corporate, kind: ClusterIssuer}}
policies: {source: server}
webhook: {namespaceSelector: {key: image-assurance, values: [enabled]}, failurePolicy: Ignore, timeoutSeconds: 3, namespaceLabels: {failurePolicy: Ignore}, priorityClassName: "", server: {url: "https://assay.example.com:8443", caSecretName: corporate-ca}, clientCA: {configMap: api-server, names: [kube-apiserver]}, readOwners: true, extraRules: [{operations: [CREATE, UPDATE], apiGroups: [argoproj.io], apiVersions: ["*"], resources: [rollouts], scope: "*"}]}
node: {enabled: true, cluster: prod, tokenSecretName: prod, containerd: {socket: /run/k3s/containerd/containerd.sock, root: /var/lib/rancher/k3s/agent/containerd}, criSocket: /run/crio/crio.sock, excludedNamespaces: [kube-system], logLevel: debug, priorityClassName: low, resources: {requests: {memory: 1Gi}, limits: {memory: 2Gi}}, nodeSelector: {a: b}, tolerations: [], podAnnotations: {a: b}, extraArgs: [--running-only]}
registryScan: {enabled: true, registry: registry.example.com, repositories: [team/app, nginx], schedule: "@daily", server: {url: "https://assay.example.com:8443", caSecretName: corporate-ca, tokenSecretName: scanner}}
fallback: {enabled: true, digests: {"sha256:1111111111111111111111111111111111111111111111111111111111111111": "CVE-2021-44228"}}`,
	"configMap": `
policies: {source: configMap, configMap: assay-policies}
webhook: {extraArgs: ["--shutdown-delay=10s"], narrowRegistration: true, namespaceLabels: {enabled: false}}
networkPolicy: {enabled: false}
fallback: {enabled: true}`,
	"secret": `
certificates: {issuer: secret, secretName: corporate-webhook, caBundle: QQ==}
policies: {source: server}
server: {enabled: true, tls: {secretName: corporate-server}, reports: {enabled: true}}`,
}

func TestMain(m *testing.M) {
	slog.SetLogLoggerLevel(slog.LevelWarn) // Helm tells of the link to deploy/crds each time
	os.Exit(m.Run())
}

func chartValues(t *testing.T, text string) map[string]any {
	t.Helper()
	values := map[string]any{}
	if err := yaml.UnmarshalStrict([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// render gives the manifests as Helm installs them, and the notes.
func render(t *testing.T, text string) (manifests []string, notes string, err error) {
	t.Helper()
	chart, err := loader.LoadDir(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	values, err := util.ToRenderValues(chart, chartValues(t, text), common.ReleaseOptions{Name: "assay", Namespace: "assay-system", Revision: 1, IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		return nil, "", err
	}
	files, err := engine.Engine{Strict: true}.RenderWithContext(t.Context(), chart, values)
	if err != nil {
		return nil, "", err
	}
	for name, text := range files {
		if strings.HasSuffix(name, ".txt") {
			notes = text
			delete(files, name)
		} else if strings.Contains(text, "<no value>") {
			t.Errorf("%s has <no value>", name)
		}
	}
	_, sorted, err := release.SortManifests(files, nil, release.InstallOrder)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range sorted {
		manifests = append(manifests, strings.TrimSpace(m.Content))
	}
	return manifests, notes, nil
}

// installation holds the objects of one value set.
type installation struct {
	name    string
	objects []runtime.Object
	pods    map[string]corev1.PodTemplateSpec // by name
}

// all objects of a type.
func all[T runtime.Object](i installation) (list []T) {
	for _, o := range i.objects {
		if o, ok := o.(T); ok {
			list = append(list, o)
		}
	}
	return list
}

func installations(t *testing.T) (list []installation) {
	t.Helper()
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, name := range slices.Sorted(maps.Keys(valueSets)) {
		manifests, notes, err := render(t, valueSets[name])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !strings.Contains(notes, "Assay judges") {
			t.Errorf("%s: the notes are %q", name, notes)
		}
		i := installation{name: name, pods: map[string]corev1.PodTemplateSpec{}}
		for _, m := range manifests {
			u := &unstructured.Unstructured{}
			err := yaml.UnmarshalStrict([]byte(m), &u.Object)
			var o runtime.Object = u
			if group := u.GroupVersionKind().Group; err == nil && group != "cert-manager.io" && group != "apiregistration.k8s.io" {
				o, _, err = strict.Decode([]byte(m), nil, nil)
			}
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, m)
			}
			i.objects = append(i.objects, o)
			switch o := o.(type) {
			case *appsv1.Deployment:
				i.pods[o.Name] = o.Spec.Template
			case *appsv1.DaemonSet:
				i.pods[o.Name] = o.Spec.Template
			case *appsv1.StatefulSet:
				template := o.Spec.Template
				for _, claim := range o.Spec.VolumeClaimTemplates {
					template.Spec.Volumes = append(template.Spec.Volumes, corev1.Volume{Name: claim.Name})
				}
				i.pods[o.Name] = template
			case *batchv1.CronJob:
				i.pods[o.Name] = o.Spec.JobTemplate.Spec.Template
			}
		}
		list = append(list, i)
	}
	return list
}

func TestChartLints(t *testing.T) {
	for name, text := range valueSets {
		for _, m := range lint.RunAll(chartDir, chartValues(t, text), "assay-system").Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

func TestChartHasTheDefinitions(t *testing.T) {
	chart, err := loader.LoadDir(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(root + "/deploy/crds/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, filepath.Base(f)+string(text))
	}
	for _, c := range chart.CRDObjects() {
		got = append(got, filepath.Base(c.Filename)+string(c.File.Data))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) || len(got) == 0 {
		t.Errorf("the chart has %d definitions, not the %d of deploy/crds", len(got), len(want))
	}
}

func TestChartRefuses(t *testing.T) {
	for values, want := range map[string]string{
		`{webhok: {}}`:                                     "webhok",
		`{webhook: {replicas: 0}}`:                         "replicas",
		`{webhook: {failurePolicy: fail}}`:                 "failurePolicy",
		`{webhook: {server: {url: "http://x"}}}`:           "url",
		`{webhook: {resources: {limits: {memory: 1e9}}}}`:  "memory",
		`{webhook: {resources: {limits: {memory: null}}}}`: "memory",
		`{webhook: {scanOnSight: true}}`:                   "webhook.scanOnSight needs a server",
		`{policies: {source: git}}`:                        "source",
		`{policies: {source: server}}`:                     "set server.enabled, or webhook.server.url",
		`{policies: {source: configMap}}`:                  "set policies.configMap",
		`{policies: {source: server}, server: {enabled: true}, webhook: {narrowRegistration: true}}`:                "needs the policies at hand",
		`{certificates: {issuer: secret, caBundle: QQ==}}`:                                                          "set certificates.secretName",
		`{certificates: {issuer: secret, secretName: x}}`:                                                           "set certificates.caBundle",
		`{certificates: {caBundle: "-----BEGIN"}}`:                                                                  "caBundle",
		`{webhook: {namespaceSelector: {values: [a]}}}`:                                                             "set webhook.namespaceSelector.key",
		`{webhook: {namespaceSelector: {key: a, values: ["a,b"]}}}`:                                                 "values",
		`{webhook: {namespaceSelector: {key: "a b"}}}`:                                                              "key",
		`{webhook: {namespaceLabels: {failurePolicy: Warn}}}`:                                                       "failurePolicy",
		`{server: {enabled: true}}`:                                                                                 "set policies.source to server",
		`{policies: {source: server, scansConfigMap: x}, server: {enabled: true}}`:                                  "a server has its own scans",
		`{policies: {source: server}, server: {enabled: true, replicas: 2}}`:                                        "need PostgreSQL",
		`{policies: {source: server}, server: {enabled: true, reports: {enabled: true}}}`:                           "needs server.reports.caBundle",
		`{node: {enabled: true}}`:                                                                                   "node.enabled needs a server",
		`{policies: {source: server}, server: {enabled: true}, node: {enabled: true, containerd: {root: /}}}`:       "root",
		`{policies: {source: server}, server: {enabled: true}, node: {enabled: true, criSocket: "cri.sock"}}`:       "criSocket",
		`{policies: {source: server}, server: {enabled: true}, node: {enabled: true, resources: {requests: null}}}`: "requests",
		`{images: {webhook: {digest: "latest"}}}`:                                                                   "digest",
		`{fallback: {digests: {"nginx:1": x}}}`:                                                                     "nginx:1",
		`{registryScan: {enabled: true, registry: a.example.com}}`:                                                  "results go to a server",
		`{policies: {source: server}, server: {enabled: true}, registryScan: {enabled: true}}`:                      "set registryScan.registry",
		`{registryScan: {server: {url: "http://x"}}}`:                                                               "url",
	} {
		if _, _, err := render(t, values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", values, err, want)
		}
	}
}

func TestPodsAreConfined(t *testing.T) {
	for _, i := range installations(t) {
		if len(i.pods) == 0 {
			t.Errorf("%s has no pods", i.name)
		}
		for name, pod := range i.pods {
			fault := func(format string, args ...any) { t.Errorf("%s: %s: "+format, append([]any{i.name, name}, args...)...) }
			s := pod.Spec
			// The nodes' agent reads what root owns on the node, and writes nothing there.
			agent := name == "assay-node"
			if p := s.SecurityContext; p == nil || agent != (p.RunAsNonRoot == nil) || agent != (*p.RunAsUser == 0) || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				fault("securityContext %+v", p)
			}
			if s.HostNetwork || s.HostPID || s.HostIPC || s.AutomountServiceAccountToken == nil || s.ServiceAccountName != name {
				fault("host namespaces or service account")
			}
			volumes, mounted, host := map[string]bool{}, map[string]bool{}, map[string]string{}
			for _, v := range s.Volumes {
				volumes[v.Name] = true
				if v.HostPath != nil {
					host[v.Name] = v.HostPath.Path
					if !agent || *v.HostPath.Type != corev1.HostPathDirectory {
						fault("volume %s is of the host", v.Name)
					}
				}
				if v.Secret != nil && len(v.Secret.Items) == 0 && v.Name != "notifications" {
					fault("volume %s takes more of its Secret than it needs", v.Name)
				}
			}
			for _, c := range slices.Concat(s.InitContainers, s.Containers) {
				p, capabilities := c.SecurityContext, corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
				if agent {
					capabilities.Add = []corev1.Capability{"DAC_READ_SEARCH"}
				}
				if p == nil || *p.AllowPrivilegeEscalation || !*p.ReadOnlyRootFilesystem || agent != (p.RunAsNonRoot == nil) || p.Privileged != nil || !reflect.DeepEqual(*p.Capabilities, capabilities) {
					fault("securityContext of %s: %+v", c.Name, p)
				}
				if !regexp.MustCompile(`^ghcr\.io/assay-dev/assay(-webhook)?(:\d+\.\d+\.\d+|@sha256:[a-f0-9]{64})$`).MatchString(c.Image) {
					fault("image %q", c.Image)
				}
				if s.RestartPolicy == corev1.RestartPolicyNever {
					if c.LivenessProbe != nil || c.ReadinessProbe != nil {
						fault("a Job is probed")
					}
				} else if c.LivenessProbe == nil || c.ReadinessProbe == nil || c.StartupProbe == nil {
					fault("a probe is missing")
				}
				limit := c.Resources.Limits.Memory()
				if agent { // the rest is for the process of a scan
					limit = c.Resources.Requests.Memory()
					if c.Resources.Limits.Memory().Value()-limit.Value() < 768<<20 {
						fault("a scan has no room: %+v", c.Resources)
					}
				}
				if limit.IsZero() || c.Resources.Requests.Memory().IsZero() {
					fault("resources %+v", c.Resources)
				} else if want := fmt.Sprintf("%dMiB", limit.Value()>>20*9/10); c.Env[0].Value != want {
					fault("GOMEMLIMIT is %s, want %s", c.Env[0].Value, want)
				}
				var mounts []string
				for _, m := range c.VolumeMounts {
					if !volumes[m.Name] {
						fault("there is no volume %s", m.Name)
					}
					if path, ok := host[m.Name]; ok && (!m.ReadOnly || path != m.MountPath) {
						fault("the host's %s is mounted at %s, read-only: %t", path, m.MountPath, m.ReadOnly)
					}
					mounted[m.Name] = true
					mounts = append(mounts, m.MountPath)
				}
				for _, arg := range c.Args {
					_, value, _ := strings.Cut(arg, "=")
					under := func(mount string) bool { return value == mount || strings.HasPrefix(value, mount+"/") }
					if strings.HasPrefix(value, "/") && !slices.ContainsFunc(mounts, under) {
						fault("%s is on no volume", arg)
					}
				}
			}
			if len(mounted) != len(volumes) {
				fault("of the volumes %v only %v are mounted", volumes, mounted)
			}
			for _, n := range all[*networkingv1.NetworkPolicy](i) {
				if n.Name == name && !selects(t, &n.Spec.PodSelector, pod) {
					fault("its NetworkPolicy does not select it")
				}
			}
		}
	}
}

// Assay's own images can be pinned: with a digest for each, nothing that it installs is pulled by a tag, and a
// digest goes over a tag.
func TestImagesByDigest(t *testing.T) {
	webhook, server := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	byDigest := fmt.Sprintf("\nimages: {webhook: {tag: \"9\", digest: %q}, server: {tag: \"9\", digest: %q}}\n", webhook, server)
	seen := 0
	for name, values := range valueSets {
		if strings.Contains(values, "\nimages:") {
			continue // it chooses its own
		}
		manifests, _, err := render(t, values+byDigest)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, m := range manifests {
			for line := range strings.Lines(m) {
				image, ok := strings.CutPrefix(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "- ")), "image: ")
				if !ok {
					continue
				}
				seen++
				if !strings.HasSuffix(image, "@"+webhook) && !strings.HasSuffix(image, "@"+server) {
					t.Errorf("%s: %s is not by digest", name, image)
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d images were looked at", seen)
	}
}

func selects(t *testing.T, s *metav1.LabelSelector, pod corev1.PodTemplateSpec) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector.Matches(labels.Set(pod.Labels))
}

func TestPartsFindEachOther(t *testing.T) {
	for _, i := range installations(t) {
		ports := map[string][]string{}
		for _, s := range all[*corev1.Service](i) {
			pod, ok := i.pods[s.Name]
			if !ok || !selects(t, &metav1.LabelSelector{MatchLabels: s.Spec.Selector}, pod) {
				t.Errorf("%s: Service %s selects no pod", i.name, s.Name)
				continue
			}
			for _, p := range s.Spec.Ports {
				if !slices.ContainsFunc(pod.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool { return c.Name == p.TargetPort.StrVal }) {
					t.Errorf("%s: Service %s: there is no port %s", i.name, s.Name, p.TargetPort.StrVal)
				}
				ports[s.Name] = append(ports[s.Name], fmt.Sprint(p.Port))
			}
			for other, pod := range i.pods {
				if other != s.Name && selects(t, &metav1.LabelSelector{MatchLabels: s.Spec.Selector}, pod) {
					t.Errorf("%s: Service %s selects %s too", i.name, s.Name, other)
				}
			}
		}
		for _, b := range all[*policyv1.PodDisruptionBudget](i) {
			if !selects(t, b.Spec.Selector, i.pods[b.Name]) {
				t.Errorf("%s: PodDisruptionBudget %s selects no pod", i.name, b.Name)
			}
		}
		for _, arg := range i.pods["assay-webhook"].Spec.Containers[0].Args {
			if url, ok := strings.CutPrefix(arg, "--server=https://assay-server.assay-system.svc:"); ok && !slices.Contains(ports["assay-server"], url) {
				t.Errorf("%s: %s: the server has ports %v", i.name, arg, ports["assay-server"])
			}
		}
		registrations := all[*admissionv1.ValidatingWebhookConfiguration](i)
		if len(registrations) != 1 || registrations[0].Name != "assay" {
			t.Fatalf("%s: %d registrations", i.name, len(registrations))
		}
		for _, w := range registrations[0].Webhooks {
			service := w.ClientConfig.Service
			if service.Name != "assay-webhook" || !slices.Contains(ports[service.Name], fmt.Sprint(*service.Port)) {
				t.Errorf("%s: %s calls %+v", i.name, w.Name, service)
			}
			if (string(w.ClientConfig.CABundle) == "A") != (i.name == "secret") {
				t.Errorf("%s: %s trusts %q", i.name, w.Name, w.ClientConfig.CABundle)
			}
			if w.Name == "kinds.assay.dev" { // these are in no namespace
				continue
			}
			if w.Name == "labels.assay.dev" { // by the namespace's name: its labels are what the request brings
				if w.NamespaceSelector != nil || len(w.MatchConditions) == 0 || !strings.Contains(w.MatchConditions[0].Expression, `in ["kube-system","assay-system"]`) {
					t.Errorf("%s: %s: %v %+v", i.name, w.Name, w.NamespaceSelector, w.MatchConditions)
				}
				continue
			}
			selector, err := metav1.LabelSelectorAsSelector(w.NamespaceSelector)
			if err != nil {
				t.Fatal(err)
			}
			for namespace, judged := range map[string]bool{"default": true, "kube-system": false, "assay-system": false} {
				// With each label that an installation has its namespaces opt in by.
				set := labels.Set{corev1.LabelMetadataName: namespace, "apply-container-policies": "true", "example.com/image-assurance": "", "image-assurance": "enabled"}
				if selector.Matches(set) != judged {
					t.Errorf("%s: %s: namespace %s is judged: %t", i.name, w.Name, namespace, !judged)
				}
			}
		}
	}
}

// named is the installation of a value set.
func named(t *testing.T, name string) installation {
	t.Helper()
	list := installations(t)
	return list[slices.IndexFunc(list, func(i installation) bool { return i.name == name })]
}

// The API server is told of just the kinds that the webhook judges.
func TestRegistration(t *testing.T) {
	w := all[*admissionv1.ValidatingWebhookConfiguration](named(t, "default"))[0].Webhooks
	var got []string
	for _, w := range w {
		for _, r := range w.Rules {
			for _, resource := range r.Resources {
				got = append(got, fmt.Sprintf("%s %s %v %s/%s", w.Name, *w.ClientConfig.Service.Path, r.Operations, r.APIGroups[0], resource))
			}
		}
		if *w.FailurePolicy != admissionv1.Fail || *w.TimeoutSeconds != 5 || *w.MatchPolicy != admissionv1.Equivalent {
			t.Errorf("%s: %s %d %s", w.Name, *w.FailurePolicy, *w.TimeoutSeconds, *w.MatchPolicy)
		}
	}
	want := []string{
		"workloads.assay.dev /admit [CREATE UPDATE] /pods",
		"workloads.assay.dev /admit [CREATE UPDATE] /pods/ephemeralcontainers",
		"workloads.assay.dev /admit [CREATE UPDATE] /replicationcontrollers",
		"workloads.assay.dev /admit [CREATE UPDATE] apps/daemonsets",
		"workloads.assay.dev /admit [CREATE UPDATE] apps/deployments",
		"workloads.assay.dev /admit [CREATE UPDATE] apps/replicasets",
		"workloads.assay.dev /admit [CREATE UPDATE] apps/statefulsets",
		"workloads.assay.dev /admit [CREATE UPDATE] batch/cronjobs",
		"workloads.assay.dev /admit [CREATE UPDATE] batch/jobs",
		"kinds.assay.dev /validate [CREATE UPDATE] containersecurity.tigera.io/containeradmissionpolicies",
		"kinds.assay.dev /validate [CREATE UPDATE] assay.dev/admissionsettings",
		"kinds.assay.dev /validate [CREATE UPDATE] assay.dev/thresholds",
		"kinds.assay.dev /validate [CREATE UPDATE] assay.dev/verdictalerts",
		"kinds.assay.dev /validate [CREATE UPDATE] assay.dev/vulnerabilityexceptions",
		"labels.assay.dev /validate [CREATE UPDATE] /namespaces",
		"labels.assay.dev /validate [CREATE UPDATE] /namespaces/*",
	}
	if !slices.Equal(got, want) {
		t.Errorf("rules:\n%s", strings.Join(got, "\n"))
	}
	for i, want := range []admissionv1.SideEffectClass{admissionv1.SideEffectClassNoneOnDryRun, admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNone} {
		if *w[i].SideEffects != want {
			t.Errorf("%s: side effects %s", w[i].Name, *w[i].SideEffects)
		}
	}
	policies := func(name string) string {
		var list []string
		for _, w := range all[*admissionv1.ValidatingWebhookConfiguration](named(t, name))[0].Webhooks {
			list = append(list, w.Name+" "+string(*w.FailurePolicy))
		}
		return strings.Join(list, ", ")
	}
	if got := policies("elsewhere"); got != "workloads.assay.dev Ignore, kinds.assay.dev Ignore, labels.assay.dev Ignore" {
		t.Error(got)
	}
	if got := policies("configMap"); got != "workloads.assay.dev Fail, kinds.assay.dev Fail" {
		t.Error(got)
	}
}

// Namespaces that opted in are judged, and no others; who opts out needs the right to override.
func TestOnlySelectedNamespaces(t *testing.T) {
	for name, c := range map[string]struct {
		key           string
		values, notIn []string // "" is any value
		argument      string
	}{
		"default":   {},
		"scans":     {"apply-container-policies", []string{"true", "staging"}, []string{"false"}, "--namespace-selector=apply-container-policies in (true,staging)"},
		"server":    {"example.com/image-assurance", []string{"", "x"}, nil, ""},
		"elsewhere": {"image-assurance", []string{"enabled"}, []string{"", "true"}, ""},
	} {
		i := named(t, name)
		selectors := []*metav1.LabelSelector{all[*admissionv1.ValidatingWebhookConfiguration](i)[0].Webhooks[0].NamespaceSelector}
		for _, p := range all[*admissionv1.ValidatingAdmissionPolicy](i) {
			selectors = append(selectors, p.Spec.MatchConstraints.NamespaceSelector)
		}
		for _, s := range selectors {
			selector, err := metav1.LabelSelectorAsSelector(s)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			judged := func(namespace string, labelled ...string) bool {
				set := labels.Set{corev1.LabelMetadataName: namespace}
				for _, v := range labelled {
					set[c.key] = v
				}
				return selector.Matches(set)
			}
			if judged("shop") != (c.key == "") || judged("kube-system") || judged("assay-system") {
				t.Errorf("%s: without a label: %s", name, selector)
			}
			for _, v := range c.values {
				if !judged("shop", v) || judged("kube-system", v) || judged("assay-system", v) {
					t.Errorf("%s: %s=%s: %s", name, c.key, v, selector)
				}
			}
			for _, v := range c.notIn {
				if judged("shop", v) {
					t.Errorf("%s: %s=%s: %s", name, c.key, v, selector)
				}
			}
		}
		args := i.pods["assay-webhook"].Spec.Containers[0].Args
		if guarded := slices.Contains(args, "--guard-namespace-label="+c.key); guarded != (c.key != "") {
			t.Errorf("%s: the label is guarded: %t", name, guarded)
		}
		if n := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "--namespace-selector=") }); c.argument == "" && n >= 0 || c.argument != "" && (n < 0 || args[n] != c.argument) {
			t.Errorf("%s: the arguments are %q", name, args)
		}
	}
}

// Rights are those that are needed, and no more.
func TestRights(t *testing.T) {
	always := []string{
		"create /events", "patch /events", "get /namespaces", "list /namespaces", "watch /namespaces",
		"create authorization.k8s.io/subjectaccessreviews", "create authentication.k8s.io/tokenreviews",
		"kube-system: extension-apiserver-authentication-reader",
	}
	var kinds []string
	for _, kind := range []string{"containersecurity.tigera.io/containeradmissionpolicies", "assay.dev/vulnerabilityexceptions", "assay.dev/thresholds", "assay.dev/admissionsettings", "assay.dev/verdictalerts"} {
		kinds = append(kinds, "list "+kind, "watch "+kind, "update "+kind+"/status")
	}
	kinds = append(kinds, "list projectcalico.org/globalalerts", "watch projectcalico.org/globalalerts")
	registration := []string{"get admissionregistration.k8s.io/validatingwebhookconfigurations assay", "update admissionregistration.k8s.io/validatingwebhookconfigurations assay"}
	secret := []string{"assay-system: get /secrets assay-webhook-tls", "assay-system: update /secrets assay-webhook-tls", "assay-system: create /secrets"}
	reports := []string{"create authorization.k8s.io/subjectaccessreviews", "create authentication.k8s.io/tokenreviews", "kube-system: extension-apiserver-authentication-reader"}
	owners := []string{"get /replicationcontrollers", "get apps/daemonsets", "get apps/deployments", "get apps/replicasets", "get apps/statefulsets",
		"get batch/cronjobs", "get batch/jobs", "get argoproj.io/rollouts"}
	var assurances []string
	for _, verb := range []string{"get", "list", "watch"} {
		assurances = append(assurances, verb+" image-assurance.operator.tigera.io/imageassurances")
	}
	want := map[string]map[string][]string{
		"default":    {"assay-webhook": slices.Concat(always, kinds, registration, secret)},
		"scans":      {"assay-webhook": slices.Concat(always, kinds, registration, secret)},
		"server":     {"assay-webhook": slices.Concat(always, registration, secret), "assay-server": reports, "assay-node": slices.Concat(assurances, []string{"get /namespaces kube-system"})},
		"postgresql": {"assay-webhook": always, "assay-server": reports},
		"elsewhere":  {"assay-webhook": slices.Concat(always, owners), "assay-node": assurances},
		"configMap":  {"assay-webhook": slices.Concat(always, registration, secret)},
		"secret":     {"assay-webhook": always, "assay-server": reports},
	}
	for _, i := range installations(t) {
		got := map[string][]string{}
		roles := map[string][]rbacv1.PolicyRule{}
		for _, r := range all[*rbacv1.ClusterRole](i) {
			roles["ClusterRole "+r.Name] = r.Rules
		}
		for _, r := range all[*rbacv1.Role](i) {
			roles["Role "+r.Name] = r.Rules
		}
		bind := func(prefix string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
			for _, s := range subjects {
				if s.Kind != "ServiceAccount" || s.Namespace != "assay-system" {
					t.Errorf("%s: rights of %+v", i.name, s)
				}
				rules, ok := roles[ref.Kind+" "+ref.Name]
				if !ok {
					got[s.Name] = append(got[s.Name], prefix+ref.Name)
				}
				for _, text := range flatten(rules) {
					got[s.Name] = append(got[s.Name], prefix+text)
				}
			}
		}
		for _, b := range all[*rbacv1.ClusterRoleBinding](i) {
			bind("", b.RoleRef, b.Subjects)
		}
		for _, b := range all[*rbacv1.RoleBinding](i) {
			bind(b.Namespace+": ", b.RoleRef, b.Subjects)
		}
		for _, accounts := range []map[string][]string{got, want[i.name]} {
			for _, list := range accounts {
				slices.Sort(list)
			}
		}
		if !reflect.DeepEqual(got, want[i.name]) {
			t.Errorf("%s:\n got %v\nwant %v", i.name, got, want[i.name])
		}
	}
}

func flatten(rules []rbacv1.PolicyRule) (list []string) {
	for _, r := range rules {
		names := r.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, verb := range r.Verbs {
					for _, name := range names {
						list = append(list, strings.TrimSpace(verb+" "+group+"/"+resource+" "+name))
					}
				}
			}
		}
	}
	return list
}

// The programs take the arguments that they are given: each gets as far as its first file.
func TestArgumentsAreTaken(t *testing.T) {
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", bin, "./cmd/assay", "./cmd/assay-webhook")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, i := range installations(t) {
		for name, pod := range i.pods {
			program, args, want := "assay", pod.Spec.Containers[0].Args, "/etc/assay/"
			if name == "assay-webhook" {
				program, args, want = name, append(args, "--kubeconfig=no/such/file"), "--kubeconfig: "
			}
			c := exec.CommandContext(t.Context(), filepath.Join(bin, program), args...)
			c.Dir = bin
			if out, err := c.CombinedOutput(); err == nil || c.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), want) {
				t.Errorf("%s: %s %q: %v, not for %s\n%s", i.name, name, args, err, want, out)
			}
		}
	}
}

const (
	scanFile   = root + "/deploy/kubernetes/registry-scan.yaml"
	scanValues = `
policies: {source: server}
webhook: {server: {url: "https://assay-server.assay-system.svc:8380", caSecretName: assay-server-tls}}
registryScan: {enabled: true, registry: registry.example.com, server: {url: "https://assay-server.assay-system.svc:8380", caSecretName: assay-server-tls}}`
	scanHead = `# Scans registry.example.com every night, what is new in it, and sends it to the server: change
# --registry, the schedule and the storage. docs/registries.md tells of credentials. At once:
#   kubectl -n assay-system create job --from=cronjob/assay-registry-scan registry-scan-now
# Rendered from deploy/charts/assay; do not edit here but there, or a copy.
`
)

// The plain manifests of the registry scan are what the chart renders.
func TestRegistryScanIsTheChart(t *testing.T) {
	manifests, _, err := render(t, scanValues)
	if err != nil {
		t.Fatal(err)
	}
	want := scanHead
	for _, m := range manifests {
		if strings.Contains(m, "component: registry-scan") {
			want += "---\n" + strings.TrimPrefix(m, "---\n") + "\n"
		}
	}
	compare(t, scanFile, want)
}

// compare holds a generated file against what it should be, or writes it.
func compare(t *testing.T, file, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s differs from the chart: run go generate in test/deploy", file)
	}
}

const manifestFile = root + "/deploy/kubernetes/assay.yaml"

const manifestHead = `# Assay's webhook, with policies from the cluster's own resources and certificates of its own.
# Rendered from deploy/charts/assay; do not edit. Apply deploy/crds first: docs/install.md.
---
apiVersion: v1
kind: Namespace
metadata:
  name: assay-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
`

func TestManifestsAreTheChart(t *testing.T) {
	manifests, _, err := render(t, valueSets["default"])
	if err != nil {
		t.Fatal(err)
	}
	want := manifestHead
	for _, m := range manifests {
		want += "---\n" + strings.TrimPrefix(m, "---\n") + "\n"
	}
	compare(t, manifestFile, want)
}

// Each program has a token of its own, for its cluster and no more.
func TestTokensAreScoped(t *testing.T) {
	const server = "policies: {source: server}\nserver: {enabled: true}\nregistryScan: {enabled: true, registry: registry.example.com}\n"
	for values, want := range map[string][]string{
		"cluster: {name: prod, group: eu}\nnode: {enabled: true}\n": {"--bind=webhook(cluster=prod,group=eu)=user:assay-webhook", "--cluster-name=prod", "--cluster=prod", "name: assay-registry-scan, key: token", "name: assay-node"},
		"cluster: {name: prod}\nnode: {enabled: true}\n":            {"--bind=webhook(cluster=prod)=user:assay-webhook", "--cluster-name=prod", "--cluster=prod"},
		"node: {enabled: true, cluster: old}\n":                     {"--bind=webhook(cluster=old)=user:assay-webhook", "--cluster-name=old", "--cluster=old"},
		"":                                                          {"--bind=webhook(all)=user:assay-webhook"},
	} {
		manifests, notes, err := render(t, server+values)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(manifests, "\n---\n")
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%q: no %s", values, w)
			}
		}
		if strings.Contains(text, "--bind=scanner") || strings.Count(text, "--bind=") != 2 {
			t.Errorf("%q: there are other bindings", values)
		}
		if unset := strings.Contains(notes, "cluster.name is not set"); unset != (values == "") {
			t.Errorf("%q: the notes: %s", values, notes)
		}
	}
	for _, bad := range []string{"cluster: {name: 'a,registry=b'}", "cluster: {name: 'a)=user:x'}", "cluster: {group: 'a b'}", "node: {cluster: 'a,b'}"} {
		if _, _, err := render(t, bad+"\n"); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
