package reports

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	restclient "k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

var (
	day = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	now = day.Add(30 * 24 * time.Hour)
)

func digest(n int) string { return fmt.Sprintf("sha256:%016x%048d", uint64(n/2)*0x9e3779b97f4a7c15, n) }

// write changes a store.
func write(t *testing.T, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.Write(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// fill puts random scans and containers in a store, and classifies them at random.
func fill(t *testing.T, s *store.Store, r *rand.Rand) {
	t.Helper()
	names := []string{"docker.io/library/nginx", "quay.io/a/b__c", "registry.example.com:5000/team/app.web", "localhost/x", "quay.io/a/" + strings.Repeat("long", 20)}
	write(t, s, func(tx *store.Tx) error {
		for n := range 90 {
			scan := api.Scan{Image: fmt.Sprintf("%s:%s", names[r.IntN(5)], []string{"1.25", "Latest", "_v.-1", "0"}[r.IntN(4)]), Digest: digest(n / 2), Source: "registry", ScannedAt: day.Add(time.Duration(n) * time.Hour), Packages: 1 + n}
			switch n % 30 {
			case 3:
				scan.Digest, scan.Error = "", "no such manifest"
			case 4:
				scan.Image = names[0] + "@" + scan.Digest
			}
			for i := range 8 {
				if r.IntN(2) == 0 && scan.Error == "" {
					high := float64(r.IntN(101)) / 10
					v := api.Vulnerability{ID: fmt.Sprintf("CVE-2026-%04d", i), Package: []string{"log4j", "openssl"}[r.IntN(2)], Version: "1", Type: "deb",
						Severity: []string{"Critical", "High", "Medium", "Low", "Negligible", "Unknown", "odd"}[r.IntN(7)], KEV: r.IntN(9) == 0, CVSS: &high}
					if r.IntN(4) == 0 {
						v.Fix = api.Fix{State: "fixed", Versions: []string{"2"}}
					}
					scan.Vulnerabilities = append(scan.Vulnerabilities, v, api.Vulnerability{ID: v.ID, Package: "libc", Severity: "Low", Fix: api.Fix{State: "unknown"}})
				}
			}
			if _, err := tx.AddScan(t.Context(), scan); err != nil {
				return err
			}
		}
		for _, cluster := range []string{"prod", "a cluster: test"} {
			var running []store.Instance
			for n := range 40 {
				running = append(running, store.Instance{Instance: api.Instance{Namespace: fmt.Sprintf("ns%d", n%3), Pod: fmt.Sprintf("web-%d", n/2), Container: fmt.Sprintf("c%d", n%2)},
					Image: fmt.Sprintf("%s:1.25", names[r.IntN(5)]), Digest: digest(r.IntN(60)), Node: "node-1"})
			}
			if err := tx.SetInstances(t.Context(), cluster, "", running); err != nil {
				return err
			}
		}
		tasks, done, err := tx.Tasks(t.Context(), 1<<40, 1000, nil)
		if err != nil {
			return err
		}
		var verdicts []store.Verdict
		for _, task := range tasks {
			said := store.Said{Result: allResults[r.IntN(4)]}
			if r.IntN(4) > 0 {
				high := float64(r.IntN(100)) / 10
				said.MaxCVSS = &high
			}
			verdicts = append(verdicts, store.Verdict{Task: task, Said: []store.Said{said}})
		}
		return tx.Classified(t.Context(), verdicts, done)
	})
}

// serve serves a store without a cluster, and gives a client of it.
func serve(t *testing.T, s *store.Store) *restclient.RESTClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := certutil.GenerateSelfSignedCertKey("localhost", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Listener: l, CertFile: filepath.Join(t.TempDir(), "tls.crt"), KeyFile: filepath.Join(t.TempDir(), "tls.key"), Store: s, Log: slog.Default(), Now: func() time.Time { return now },
		Annotate: func(_ context.Context, _, _, _ string, scan *api.Scan, _ time.Time) error {
			for i := range scan.Vulnerabilities {
				if scan.Vulnerabilities[i].ID == "CVE-2026-0001" {
					scan.Vulnerabilities[i].Exception = &api.AppliedException{Justification: "not reachable"}
				}
			}
			return nil
		}}
	if err := certutil.WriteCert(c.CertFile, cert); err != nil {
		t.Fatal(err)
	}
	if err := keyutil.WriteKey(c.KeyFile, key); err != nil {
		t.Fatal(err)
	}
	generic, err := c.generic()
	if err != nil {
		t.Fatal(err)
	}
	server, err := c.install(generic)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.PrepareRun().RunWithContext(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	config := restclient.CopyConfig(generic.LoopbackClientConfig)
	config.GroupVersion, config.APIPath, config.QPS = &GroupVersion, "/apis", -1
	config.ContentType = "application/json"
	config.NegotiatedSerializer = group(newScheme()).NegotiatedSerializer.(textOnly)
	client, err := restclient.RESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// get asks for a path below the API, and decodes the answer.
func get[T any](t *testing.T, c *restclient.RESTClient, path, accept string, parameters map[string]string) (answer T, err error) {
	t.Helper()
	r := c.Get().AbsPath("/apis/"+GroupVersion.String()+"/"+path).SetHeader("Accept", accept)
	for k, v := range parameters {
		r = r.Param(k, v)
	}
	result := r.Do(t.Context())
	if err := result.Error(); err != nil {
		return answer, err
	}
	text, err := result.Raw()
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(text, &answer)
}

// walk lists page by page.
func walk[T any](t *testing.T, c *restclient.RESTClient, path string, limit int, parameters map[string]string) (all []T) {
	t.Helper()
	parameters["limit"] = fmt.Sprint(limit)
	for {
		list, err := get[List[T]](t, c, path, "application/json", parameters)
		if err != nil {
			t.Fatalf("%s %v: %v", path, parameters, err)
		}
		if limit > 0 && len(list.Items) > limit {
			t.Fatalf("%d objects on a page of %d", len(list.Items), limit)
		}
		all = append(all, list.Items...)
		if parameters["continue"] = list.Continue; list.Continue == "" {
			return all
		}
	}
}

// Lists hold what their selectors hold for in plain Go, each object once, whatever the
// pages; and each object can be had by its name.
func TestLists(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		r := rand.New(rand.NewPCG(3, 3))
		fill(t, s, r)
		c := serve(t, s)

		all := walk[ImageScanSummary](t, c, "imagescansummaries", 0, map[string]string{})
		scans := map[string]ImageScan{}
		for _, o := range all {
			if faults := validation.IsDNS1123Subdomain(o.Name); len(faults) > 0 {
				t.Errorf("%s: %v", o.Name, faults)
			}
			scan, err := get[ImageScan](t, c, "imagescans/"+o.Name, "application/json", nil)
			if err != nil || !reflect.DeepEqual(scan.Report, o.Report) || scan.UID != o.UID || scan.Kind != "ImageScan" {
				t.Fatalf("%s: %+v, want %+v: %v", o.Name, scan.Report, o.Report, err)
			}
			scans[o.Name] = scan
			checkCounts(t, scan)
		}
		if len(scans) != len(all) || len(all) < 60 {
			t.Fatalf("%d objects have %d names", len(all), len(scans))
		}
		running := walk[RunningImage](t, c, "runningimages", 0, map[string]string{})
		if len(running) != 80 {
			t.Fatalf("%d containers run", len(running))
		}
		for _, o := range running {
			if got, err := get[RunningImage](t, c, "namespaces/"+o.Namespace+"/runningimages/"+o.Name, "application/json", nil); err != nil || !reflect.DeepEqual(got.ObjectMeta, o.ObjectMeta) || got.Container != o.Container {
				t.Errorf("%s: %+v, want %+v: %v", o.Name, got, o, err)
			}
		}

		pick := func() ImageScanSummary { return all[r.IntN(len(all))] }
		for n := range 150 {
			var fields, label []string
			holds := []func(ImageScanSummary) bool{}
			for range 1 + r.IntN(2) {
				o, result := pick(), string(allResults[r.IntN(4)])
				field := func(text string, hold func(ImageScanSummary) bool) {
					fields, holds = append(fields, text), append(holds, hold)
				}
				switch r.IntN(10) {
				case 0:
					field("result="+result, func(x ImageScanSummary) bool { return x.Result == result })
				case 1:
					field("result!="+result, func(x ImageScanSummary) bool { return x.Result != result })
				case 2:
					field("image="+o.Image, func(x ImageScanSummary) bool { return x.Image == o.Image })
				case 3:
					field("registry="+o.Registry, func(x ImageScanSummary) bool { return x.Registry == o.Registry })
				case 4:
					field("repository="+o.Repository, func(x ImageScanSummary) bool { return x.Repository == o.Repository })
				case 5:
					field("metadata.name="+o.Name, func(x ImageScanSummary) bool { return x.Name == o.Name })
				case 6:
					id := fmt.Sprintf("CVE-2026-%04d", r.IntN(9))
					field("cve="+strings.ToLower(id), func(x ImageScanSummary) bool {
						return slices.ContainsFunc(scans[x.Name].Vulnerabilities, func(v Vulnerability) bool { return v.ID == id })
					})
				case 7:
					field("package=log4j", func(x ImageScanSummary) bool {
						return slices.ContainsFunc(scans[x.Name].Vulnerabilities, func(v Vulnerability) bool { return v.Package == "log4j" })
					})
				case 8:
					if o.Digest != "" {
						field("digest="+o.Digest, func(x ImageScanSummary) bool { return x.Digest == o.Digest })
					}
				case 9:
					text := []string{LabelResult + " in (Fail,Warn)", LabelResult + "!=Pass", LabelKEV + "=true", LabelFixable + " notin (true)", LabelKEV, "!" + LabelFixable, "other=x", "!other", LabelRepository + "=nginx"}[r.IntN(9)]
					selector, err := labels.Parse(text)
					if err != nil {
						t.Fatal(err)
					}
					label, holds = append(label, text), append(holds, func(x ImageScanSummary) bool { return selector.Matches(labels.Set(x.Labels)) })
				}
			}
			want := []string{}
			for _, o := range all {
				if !slices.ContainsFunc(holds, func(hold func(ImageScanSummary) bool) bool { return !hold(o) }) {
					want = append(want, o.Name)
				}
			}
			got := []string{}
			for _, o := range walk[ImageScan](t, c, "imagescans", r.IntN(20), map[string]string{"fieldSelector": strings.Join(fields, ","), "labelSelector": strings.Join(label, ",")}) {
				got = append(got, o.Name)
				if o.Vulnerabilities != nil {
					t.Errorf("a list has the vulnerabilities of %s", o.Name)
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%d: %v %v gives %v, want %v", n, fields, label, got, want)
			}
		}
		for selector, hold := range map[[2]string]func(RunningImage) bool{
			{"result=Fail", ""}:                   func(o RunningImage) bool { return o.Result == "Fail" },
			{"metadata.namespace=ns1", ""}:        func(o RunningImage) bool { return o.Namespace == "ns1" },
			{"cluster=a cluster: test", ""}:       func(o RunningImage) bool { return o.Cluster != "prod" },
			{"image=nginx:1.25,result!=Pass", ""}: func(o RunningImage) bool { return o.Image == "docker.io/library/nginx:1.25" && o.Result != "Pass" },
			{"digest=" + running[0].Digest, ""}:   func(o RunningImage) bool { return o.Digest == running[0].Digest },
			{"", LabelCluster + "=prod," + LabelRepository + "=nginx"}: func(o RunningImage) bool {
				return o.Labels[LabelCluster] == "prod" && o.Labels[LabelRepository] == "nginx"
			},
		} {
			want := slices.DeleteFunc(slices.Clone(running), func(o RunningImage) bool { return !hold(o) })
			if got := walk[RunningImage](t, c, "runningimages", 7, map[string]string{"fieldSelector": selector[0], "labelSelector": selector[1]}); !reflect.DeepEqual(got, want) || len(got) == 0 {
				t.Errorf("%v gives %d, want %d", selector, len(got), len(want))
			}
		}
		if got := walk[RunningImage](t, c, "namespaces/ns1/runningimages", 7, map[string]string{"fieldSelector": "metadata.namespace=ns2"}); len(got) > 0 {
			t.Errorf("a list of one namespace has %v of another", got)
		}
	})
}

// checkCounts holds the numbers of a scan against its vulnerabilities.
func checkCounts(t *testing.T, scan ImageScan) {
	t.Helper()
	ids, fixed, kev := map[string]bool{}, map[string]bool{}, map[string]bool{}
	critical := map[string]bool{}
	for i, v := range scan.Vulnerabilities {
		ids[v.ID] = true
		critical[v.ID] = critical[v.ID] || v.Severity == "Critical"
		fixed[v.ID] = fixed[v.ID] || v.Fix == "fixed"
		kev[v.ID] = kev[v.ID] || v.KEV
		if i > 0 && v.CVSS != nil && (scan.Vulnerabilities[i-1].CVSS == nil || *v.CVSS > *scan.Vulnerabilities[i-1].CVSS) {
			t.Errorf("%s: %s is out of order", scan.Name, v.ID)
		}
		if (v.Exception != "") != (v.ID == "CVE-2026-0001") {
			t.Errorf("%s: %s has the exception %q", scan.Name, v.ID, v.Exception)
		}
	}
	n := func(m map[string]bool) (n int) {
		for _, yes := range m {
			if yes {
				n++
			}
		}
		return n
	}
	s := scan.Severities
	if sum := s.Critical + s.High + s.Medium + s.Low + s.Negligible + s.Unknown; sum != len(ids) || s.Critical != n(critical) || scan.Fixable != n(fixed) || scan.KEV != n(kev) ||
		scan.Labels[LabelKEV] != fmt.Sprint(n(kev) > 0) || scan.Labels[LabelFixable] != fmt.Sprint(n(fixed) > 0) {
		t.Errorf("%s: %+v, fixable %d, KEV %d of %d, labels %v", scan.Name, s, scan.Fixable, scan.KEV, len(ids), scan.Labels)
	}
}

// What a client asks wrongly is said in the API's terms.
func TestHostile(t *testing.T) {
	s := storetest.Open(t, filepath.Join(t.TempDir(), "assay.db"), nil)
	fill(t, s, rand.New(rand.NewPCG(5, 5)))
	c := serve(t, s)
	for _, x := range []struct {
		path, key, value string
		is               func(error) bool
		says             string
	}{
		{"imagescans", "fieldSelector", "status.phase=x", apierrors.IsBadRequest, "known are cluster, cve, digest, image, metadata.name, namespace, package, registry, repository, result, tag"},
		{"runningimages", "fieldSelector", "namespace=x", apierrors.IsBadRequest, "metadata.namespace"},
		{"imagescans", "fieldSelector", "result=fail", apierrors.IsBadRequest, "Pass, Warn, Fail or Unknown"},
		{"imagescans", "fieldSelector", "digest!=x", apierrors.IsBadRequest, "only result"},
		{"imagescans", "fieldSelector", "digest=", apierrors.IsBadRequest, "needs a value"},
		{"imagescans", "fieldSelector", "image=UPPER CASE", apierrors.IsBadRequest, "invalid image reference"},
		{"imagescans", "fieldSelector", "nonsense", apierrors.IsBadRequest, ""},
		{"imagescans", "labelSelector", LabelRepository, apierrors.IsBadRequest, "one value only"},
		{"imagescans", "labelSelector", LabelRepository + " in (a,b)", apierrors.IsBadRequest, "one value only"},
		{"imagescans", "labelSelector", "a==((", apierrors.IsBadRequest, ""},
		{"imagescans", "continue", "nonsense", apierrors.IsBadRequest, "continue: "},
		{"imagescans", "continue", "eyJzIjoiIiwidiI6bnVsbCwiaSI6LTF9", apierrors.IsBadRequest, "continue: "},
		{"runningimages", "continue", "WyJhIl0", apierrors.IsBadRequest, "continue: "},
		{"imagescans", "watch", "true", apierrors.IsMethodNotSupported, ""},
		{"imagescans/unknown", "", "", apierrors.IsNotFound, `imagescans.reports.assay.dev "unknown" not found`},
		{"imagescans/nginx-1.25-" + strings.Repeat("0", 12) + "-aaaaaaaa", "", "", apierrors.IsNotFound, ""},
		{"imagescans/nginx-1.25-nodigest-aaaaaaaa", "", "", apierrors.IsNotFound, ""},
		{"imagescans/" + strings.Repeat("x", 5000), "", "", apierrors.IsNotFound, ""},
		{"namespaces/ns1/runningimages/unknown", "", "", apierrors.IsNotFound, ""},
		{"nothing", "", "", apierrors.IsNotFound, ""},
	} {
		_, err := get[metav1.Status](t, c, x.path, "application/json", map[string]string{x.key: x.value})
		if !x.is(err) || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%.80s?%s=%s: %v", x.path, x.key, x.value, err)
		}
	}
	for _, parameters := range []map[string]string{{"limit": "9223372036854775807"}, {"limit": "-1"}, {"limit": "0"}} {
		if list, err := get[List[ImageScan]](t, c, "imagescans", "application/json", parameters); err != nil || len(list.Items) < 60 {
			t.Errorf("%v: %d, %v", parameters, len(list.Items), err)
		}
	}
	for _, parameters := range []map[string]string{{"fieldSelector": "package=\x00"}, {"fieldSelector": "cve=%'; DROP TABLE listings; --"}, {"fieldSelector": "registry=\xff"}, {"fieldSelector": "result=Fail,result=Pass"},
		{"fieldSelector": "metadata.name=unknown"}, {"labelSelector": LabelRepository + "="}} {
		if list, err := get[List[ImageScan]](t, c, "imagescans", "application/json", parameters); err != nil || len(list.Items) > 0 || list.Items == nil {
			t.Errorf("%q: %v, %v", parameters, list.Items, err)
		}
	}
	if err := c.Delete().AbsPath("/apis/" + GroupVersion.String() + "/imagescans/x").Do(t.Context()).Error(); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("deleting: %v", err)
	}

	// The answer to a client that asks for all is bounded, and says how to go on.
	var running []store.Instance
	for n := range MaxItems + 10 {
		running = append(running, store.Instance{Instance: api.Instance{Namespace: "many", Pod: fmt.Sprint(n), Container: "c"}, Image: "busybox"})
	}
	write(t, s, func(tx *store.Tx) error { return tx.SetInstances(t.Context(), "many", "", running) })
	list, err := get[List[RunningImage]](t, c, "namespaces/many/runningimages", "application/json", nil)
	if err != nil || len(list.Items) != MaxItems || list.Continue == "" {
		t.Errorf("%d of many, continued by %q: %v", len(list.Items), list.Continue, err)
	}
	rest, err := get[List[RunningImage]](t, c, "namespaces/many/runningimages", "application/json", map[string]string{"continue": list.Continue})
	if err != nil || len(rest.Items) != 10 || rest.Continue != "" {
		t.Errorf("%d more: %v", len(rest.Items), err)
	}
}

// What kubectl asks for: tables, discovery, and the description of the kinds.
func TestKubectl(t *testing.T) {
	s := storetest.Open(t, filepath.Join(t.TempDir(), "assay.db"), func() time.Time { return day })
	high, medium := 9.8, 5.0
	write(t, s, func(tx *store.Tx) error {
		if _, err := tx.AddScan(t.Context(), api.Scan{Image: "nginx:1.25", Digest: digest(1), ScannedAt: day, Packages: 3, Vulnerabilities: []api.Vulnerability{
			{ID: "CVE-2026-0001", Package: "openssl", Severity: "Critical", CVSS: &high, Fix: api.Fix{State: "fixed"}}, {ID: "CVE-2026-0002", Package: "openssl", Severity: "Medium", CVSS: &medium}}}); err != nil {
			return err
		}
		tasks, done, err := tx.Tasks(t.Context(), 1<<40, 10, nil)
		if err != nil {
			return err
		}
		return tx.Classified(t.Context(), []store.Verdict{{Task: tasks[0], Said: []store.Said{{Result: api.Fail, MaxCVSS: &high}}}}, done)
	})
	c := serve(t, s)
	const accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
	table, err := get[metav1.Table](t, c, "imagescans", accept, nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, column := range table.ColumnDefinitions {
		if column.Priority == 0 {
			names = append(names, strings.ToUpper(column.Name))
		}
	}
	if got := strings.Join(names, " "); got != "NAME RESULT MAXCVSS CRITICAL HIGH FIXABLE IMAGE AGE" {
		t.Errorf("columns: %s", got)
	}
	name := table.Rows[0].Cells[0].(string)
	if got := fmt.Sprint(table.Rows[0].Cells); got != "["+name+" Fail 9.8 1 0 1 docker.io/library/nginx:1.25 "+digest(1)+" 0 3 0 2026-03-01T00:00:00Z 30d]" || !strings.HasPrefix(name, "nginx-1.25-000000000000-") {
		t.Errorf("row: %s", got)
	}
	if one, err := get[metav1.Table](t, c, "imagescansummaries/"+name, accept, nil); err != nil || len(one.Rows) != 1 || !reflect.DeepEqual(one.Rows[0].Cells, table.Rows[0].Cells) {
		t.Errorf("table of one: %+v, %v", one, err)
	}
	if _, err := get[List[ImageScan]](t, c, "imagescans", "application/vnd.kubernetes.protobuf,application/json", nil); err != nil {
		t.Errorf("a client that would rather have protobuf: %v", err)
	}
	resources, err := get[metav1.APIResourceList](t, c, "", "application/json", nil)
	if err != nil || len(resources.APIResources) != 3 {
		t.Fatalf("discovery: %+v, %v", resources, err)
	}
	for _, r := range resources.APIResources {
		if !slices.Equal(r.Verbs, []string{"get", "list"}) || r.Namespaced != (r.Kind == "RunningImage") || r.SingularName != strings.ToLower(r.Kind) || !slices.Equal(r.Categories, []string{"assay"}) {
			t.Errorf("discovery: %+v", r)
		}
	}
	for _, path := range []string{"/openapi/v2", "/openapi/v3/apis/" + GroupVersion.String()} {
		text, err := c.Get().AbsPath(path).SetHeader("Accept", "application/json").DoRaw(t.Context())
		for _, want := range []string{`"dev.assay.reports.v1alpha1.ImageScan"`, `"dev.assay.reports.v1alpha1.RunningImageList"`, `"kind":"ImageScanSummary"`, "after exceptions", `"moreVulnerabilities"`} {
			if err != nil || !strings.Contains(string(text), want) {
				t.Errorf("%s lacks %s: %v", path, want, err)
			}
		}
	}
}

// Copies are equal and share nothing that can be changed.
func TestCopies(t *testing.T) {
	f, at := 1.0, metav1.NewTime(day)
	scan := ImageScan{Report: Report{MaxCVSS: &f, ScannedAt: &at}, Vulnerabilities: []Vulnerability{{CVSS: &f, EPSS: &f, FixedIn: []string{"1"}}}}
	scan.Labels = map[string]string{"a": "b"}
	for _, o := range []runtime.Object{&List[ImageScan]{Items: []ImageScan{scan}}, &ImageScanSummary{Report: scan.Report}, &RunningImage{MaxCVSS: &f, LastSeen: &at}} {
		c := o.DeepCopyObject()
		if !reflect.DeepEqual(c, o) {
			t.Errorf("%+v is not %+v", c, o)
		}
		var walk func(a, b reflect.Value)
		walk = func(a, b reflect.Value) {
			switch a.Kind() {
			case reflect.Pointer, reflect.Slice, reflect.Map:
				if !a.IsNil() && a.UnsafePointer() == b.UnsafePointer() && a.Type() != reflect.TypeFor[*time.Location]() {
					t.Errorf("a copy shares a %s", a.Type())
				}
			}
			switch a.Kind() {
			case reflect.Pointer:
				if !a.IsNil() && a.Type() != reflect.TypeFor[*time.Location]() {
					walk(a.Elem(), b.Elem())
				}
			case reflect.Struct:
				for i := range a.NumField() {
					walk(a.Field(i), b.Field(i))
				}
			case reflect.Slice:
				for i := range a.Len() {
					walk(a.Index(i), b.Index(i))
				}
			}
		}
		walk(reflect.ValueOf(o), reflect.ValueOf(c))
	}
}

func FuzzNames(f *testing.F) {
	for _, seed := range []string{"nginx:1.25", "quay.io/a/b__c:_v.-1", "x@" + digest(1), "registry:5000/" + strings.Repeat("a.", 60) + "a:" + strings.Repeat("-", 100), "a:...", "UP.example/a--b:X"} {
		f.Add(seed, digest(2))
		f.Add(seed, "")
	}
	f.Fuzz(func(t *testing.T, image, digest string) {
		if _, err := api.ParseReference("x@" + digest); digest != "" && err != nil {
			return
		}
		m, err := metaOf(image, digest)
		if err != nil {
			return
		}
		if faults := validation.IsDNS1123Subdomain(m.Name); len(faults) > 0 || !imageName.MatchString(m.Name) {
			t.Errorf("%q and %q are named %q: %v", image, digest, m.Name, faults)
		}
	})
}
