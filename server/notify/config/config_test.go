package config_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/notify"
	"github.com/assay-dev/assay/server/notify/config"
)

const example = "testdata/notifications.yaml"

func read(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func load(t *testing.T) (*config.Notifications, map[string]notify.Receiver) {
	t.Helper()
	n, err := config.Parse(example, read(t, example))
	if err != nil {
		t.Fatal(err)
	}
	receivers, err := n.Open()
	if err != nil {
		t.Fatal(err)
	}
	return n, receivers
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// names are the receivers of deliveries with the kinds that they get.
func names(ds []notify.Delivery) []string {
	var out []string
	for _, d := range ds {
		out = append(out, d.Receiver+" "+string(d.Notification.Kind))
	}
	return out
}

func TestRoutes(t *testing.T) {
	n, receivers := load(t)
	for _, test := range []struct {
		alert api.Alert
		want  []string
	}{
		{api.Alert{Name: "kev-prod", Severity: 80}, []string{"alertmanager open", "cluster open", "mail open", "chat open"}},
		{api.Alert{Name: "exploited", Severity: 100}, []string{"alertmanager open", "cluster open", "mail open", "chat open"}},
		{api.Alert{Name: "other", Severity: 80}, []string{"alertmanager open", "cluster open"}},
		{api.Alert{Name: "other", Severity: 79, Key: map[string]string{"namespace": "shop"}}, []string{"alertmanager open", "cluster open", "chat open", "tickets open"}},
		{api.Alert{Name: "kev-prod", Severity: 80, Key: map[string]string{"namespace": "sandbox-7"}}, nil},
	} {
		open := notify.Tracker{}.Evaluate(start, []api.Alert{test.alert}, nil).Notifications[0]
		if got := names(n.Deliveries(receivers, open)); !slices.Equal(got, test.want) {
			t.Errorf("%+v goes to %v, want %v", test.alert, got, test.want)
		}
	}
	// A refresh goes to none but Alertmanager; without routes all get all.
	step := notify.Tracker{}.Evaluate(start, []api.Alert{{Name: "a", Severity: 1}}, nil)
	refresh := notify.Tracker{}.Repeat(start.Add(time.Hour), step.States).Notifications[0]
	n.Spec.Routes = nil
	if got := names(n.Deliveries(receivers, refresh)); !slices.Equal(got, []string{"alertmanager refresh"}) {
		t.Errorf("a refresh goes to %v", got)
	}
	if got := n.Deliveries(receivers, step.Notifications[0]); len(got) != 5 {
		t.Errorf("without routes an alert goes to %v", names(got))
	}
}

// A changed severity opens for who comes in, and resolves for who falls out.
func TestRoutesOfChangedSeverity(t *testing.T) {
	n, receivers := load(t)
	step := notify.Tracker{}.Evaluate(start, []api.Alert{{Name: "kev-prod", Severity: 50}}, nil)
	update := notify.Tracker{}.Evaluate(start.Add(time.Minute), []api.Alert{{Name: "kev-prod", Severity: 90}}, step.States).Notifications[0]
	got := n.Deliveries(receivers, update)
	if want := []string{"alertmanager update", "mail open", "chat update", "tickets resolve"}; !slices.Equal(names(got), want) {
		t.Fatalf("goes to %v, want %v", names(got), want)
	}
	for _, d := range got {
		severity, previous := 90, 0
		switch d.Notification.Kind {
		case notify.Update:
			previous = 50
		case notify.Resolve:
			severity = 50
		}
		if d.Notification.Alert.Severity != severity || d.Notification.PreviousSeverity != previous {
			t.Errorf("%s is told of severity %d after %d", d.Receiver, d.Notification.Alert.Severity, d.Notification.PreviousSeverity)
		}
	}
}

// Every fault is reported at once, by its place.
func TestDiagnostics(t *testing.T) {
	const document = `apiVersion: v1
kind: Notification
spec:
  externalURL: ftp://x
  receivers:
    - name: Not valid
      slack: {urlFrom: hooks.slack.com/s3cr3t}
    - name: a
      webhook: {url: "https://user:s3cr3t@example.com/", signingKeyFrom: {}}
    - name: a
      email: {address: mail, from: "x", to: [], tls: maybe, username: u, colour: red}
    - name: b
      alertmanager: {url: /path, tokenFrom: {file: a, env: B}, username: u, labels: {"a-b": x}}
      kubernetes: {namespace: Not_valid}
    - name: c
    - name: c2
      webhook: {signingKeyFrom: {env: "whsec_not a name s3cr3t"}, sendResolved: "yes"}
  routes:
    - match: {severity: {min: 5, max: 4}}
      receivers: [nobody]
    - match: {severity: {min: 1.5}, name: x}
    - receivers: [a]
      receivers: [b]
`
	_, err := config.Parse("notifications.yaml", []byte(document))
	var diags config.Diagnostics
	if !errors.As(err, &diags) {
		t.Fatalf("%v is no list of diagnostics", err)
	}
	want := []string{
		"1:13: apiVersion: must be assay.dev/v1alpha1",
		"2:7: kind: must be Notifications",
		"4:16: spec.externalURL: must be an http or https URL",
		"6:13: spec.receivers[0].name: must be of 1 to 63",
		"7:24: spec.receivers[0].slack.urlFrom: must be an object, not a text",
		"9:22: spec.receivers[1].webhook.url: must not hold a name or password",
		"9:74: spec.receivers[1].webhook.signingKeyFrom: must have one of file and env",
		"10:13: spec.receivers[2].name: a is given twice",
		"11:14: spec.receivers[2].email.passwordFrom: must have one of file and env",
		"11:24: spec.receivers[2].email.address: must be host:port",
		"11:36: spec.receivers[2].email.from: must be an e-mail address",
		"11:45: spec.receivers[2].email.to: must have from 1 to 50 addresses",
		"11:54: spec.receivers[2].email.tls: must be starttls, implicit or none",
		"11:74: spec.receivers[2].email.colour: unknown field; known are address, caFile, from",
		"12:7: spec.receivers[3]: must have one of alertmanager, webhook",
		"13:27: spec.receivers[3].alertmanager.url: must be an http",
		"13:45: spec.receivers[3].alertmanager.tokenFrom: must have one of file and env",
		"13:21: spec.receivers[3].alertmanager.passwordFrom: must have one of file and env",
		"13:74: spec.receivers[3].alertmanager.username: is given beside tokenFrom",
		"13:93: spec.receivers[3].alertmanager.labels.a-b: must have a name of letters",
		"14:31: spec.receivers[3].kubernetes.namespace: must be the name of a namespace",
		"15:7: spec.receivers[4]: must have one of alertmanager, webhook",
		"17:16: spec.receivers[5].webhook: needs url or urlFrom",
		"17:39: spec.receivers[5].webhook.signingKeyFrom.env: must be the name of a variable",
		"17:81: spec.receivers[5].webhook.sendResolved: must be a boolean (true or false), not a text",
		"19:25: spec.routes[0].match.severity: must be a range within 1 to 100",
		"20:19: spec.routes[0].receivers[0]: no receiver has this name",
		"21:7: spec.routes[1].receivers: is missing",
		"21:31: spec.routes[1].match.severity.min: must be a whole number, not a number",
		"21:37: spec.routes[1].match.name: unknown field; known are alert, key, severity",
		"23:7: spec.routes[2].receivers: is given twice",
	}
	for _, w := range want {
		if !slices.ContainsFunc(diags, func(d config.Diagnostic) bool { return strings.HasPrefix(d.String(), "notifications.yaml:"+w) }) {
			t.Errorf("not reported: %s", w)
		}
	}
	if len(diags) != len(want) || t.Failed() {
		t.Errorf("%d diagnostics, want %d:\n%s", len(diags), len(want), err)
	}
	if strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("a diagnostic quotes a secret:\n%s", err)
	}
	if !slices.IsSortedFunc(diags, func(a, b config.Diagnostic) int { return a.Line - b.Line }) {
		t.Error("the diagnostics are not in their order")
	}
}

func TestBounds(t *testing.T) {
	text := string(read(t, example))
	deep := "apiVersion: &a " + strings.Repeat("[", 1000) + strings.Repeat("]", 1000)
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for _, c := range "bcdefghij" {
		laughs += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+",", 9) + "]\n"
	}
	laughs += "spec: {receivers: [], routes: *j}\n"
	for name, document := range map[string]string{
		"empty": "", "comment": "# nothing\n", "a list": "- a\n", "null": "null\n", "two documents": text + "---\n" + text, "not YAML": "a: [\n", "a tab": "a:\n\t- b\n",
		"large":          text + strings.Repeat("# a comment\n", 100_000),
		"deep":           deep,
		"aliases":        laughs,
		"many receivers": strings.Replace(text, "  routes:", strings.Repeat("    - {name: x, slack: {urlFrom: {env: X}}}\n", 200)+"  routes:", 1),
		"a long text":    strings.Replace(text, "security@example.com", strings.Repeat("a", 3000)+"@example.com", 1),
		"a long pattern": strings.Replace(text, "sandbox-*", strings.Repeat("*", 100_000), 1),
		"a cycle":        "spec: &a {receivers: [], routes: [*a]}\n",
	} {
		_, err := config.Parse("n.yaml", []byte(document))
		var diags config.Diagnostics
		if !errors.As(err, &diags) || len(diags) == 0 || len(err.Error()) > 100_000 {
			t.Errorf("%s: %.300v", name, err)
		}
	}
}

// The document of docs/notifications.md holds.
func TestDocument(t *testing.T) {
	const file = "../../../docs/notifications.md"
	_, text, ok := strings.Cut(string(read(t, file)), "```yaml\n")
	document, _, ends := strings.Cut(text, "```")
	if !ok || !ends {
		t.Fatalf("%s has no YAML", file)
	}
	n, err := config.Parse(file, []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	if receivers, err := n.Open(); err != nil || len(receivers) != 5 {
		t.Errorf("%d receivers, %v", len(receivers), err)
	}
}

func TestOpenFails(t *testing.T) {
	text := strings.Replace(string(read(t, example)), "namespace: assay", "namespace: assay\n        caFile: testdata/none.pem", 1)
	n, err := config.Parse("n.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Open(); err == nil || !strings.Contains(err.Error(), "receiver cluster: ") {
		t.Errorf("%v", err)
	}
}

// Any text gives a configuration that opens and routes, or diagnostics.
func FuzzParse(f *testing.F) {
	f.Add(read(f, example))
	f.Add([]byte("spec: &a {receivers: [{name: a, slack: {urlFrom: {env: X}}}], routes: [*a]}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := config.Parse("n.yaml", text)
		var diags config.Diagnostics
		if err != nil {
			if !errors.As(err, &diags) || err.Error() == "" {
				t.Fatalf("%v is no list of diagnostics", err)
			}
			return
		}
		step := notify.Tracker{}.Evaluate(start, []api.Alert{{Name: "a", Severity: 50, Key: map[string]string{"a": "b"}}}, nil)
		receivers := map[string]notify.Receiver{}
		for _, r := range n.Spec.Receivers {
			receivers[r.Name] = everything{}
		}
		seen := map[string]bool{}
		for _, d := range n.Deliveries(receivers, step.Notifications[0]) {
			if seen[d.ID] {
				t.Fatalf("%s gets a notification twice", d.Receiver)
			}
			seen[d.ID] = true
		}
	})
}

type everything struct{ notify.Receiver }

func (everything) Takes(notify.Kind) bool { return true }
