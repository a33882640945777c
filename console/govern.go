package console

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/store"
)

func (c *Console) alerts(r *http.Request) (*page, error) {
	l := &list{Noun: "alert", Filters: []filter{
		{Name: "firing", Label: "Firing", Options: []option{{"", "now and before"}, {"true", "now"}}},
		{Name: "rule", Label: "Rule", Hint: "its name"},
	}, Columns: []column{{Name: "state", Label: "State"}, {Name: "severity", Label: "Severity", Number: true}, {Name: "rule", Label: "Rule"}, {Name: "summary", Label: "Alert"}, {Name: "opened", Label: "Since"}, {Name: "resolved", Label: "Until"}}}
	q := l.read(r)
	q.Del("sort")
	q.Del("after")
	if v := r.URL.Query().Get("after"); v != "" {
		q.Set("before", v)
	}
	var found server.Items[store.Episode]
	if err := c.get(r, "/alerts", q, &found); err != nil {
		return nil, err
	}
	for _, e := range found.Items {
		state := cell{Kind: "flag", Text: "firing"}
		if e.Resolved != "" {
			state = cell{Kind: "muted", Text: "resolved"}
		}
		said := e.Alert.Summary
		if said == "" {
			said = e.Alert.Description
		}
		l.Rows = append(l.Rows, row{Cells: []cell{state, number(e.Alert.Severity), linkTo(e.Alert.Name, "/alerts/rules#"+url.PathEscape(e.Alert.Name)), {Kind: "text", Text: cut(said, 300), Title: e.Alert.Description}, when(e.Opened), when(e.Resolved)}})
	}
	next := ""
	if n := len(found.Items); fmt.Sprint(n) == pageSize {
		next = fmt.Sprint(found.Items[n-1].ID)
	}
	l.Empty = "No alert fired. The rules are under Alert rules."
	l.finish(r, "", next)
	return &page{name: "list", Title: "Alerts", Nav: "alerts", Live: "alerts", Body: l}, nil
}

type rulesBody struct {
	Rules []server.AlertRow
}

func (c *Console) alertRules(r *http.Request) (*page, error) {
	var found server.Items[server.AlertRow]
	if err := c.get(r, "/alerts/rules", nil, &found); err != nil {
		return nil, err
	}
	return &page{name: "rules", Title: "Alert rules", Nav: "alerts", Live: "alerts policies", Body: rulesBody{found.Items}}, nil
}

// alertTest is the form that tests an alert rule against what is kept.
type alertTest struct {
	Name, Rule, Lookback string
	Rules                []string
	Answer               *server.AlertAnswer
}

const someRule = `apiVersion: projectcalico.org/v3
kind: GlobalAlert
metadata:
  name: failing-in-production
spec:
  description: "${count} images fail in ${namespace}"
  severity: 80
  dataSet: vulnerability
  query: result = "Fail" AND namespace NOTIN {"dev-*"}
  aggregateBy: [namespace]
  metric: count
  condition: gt
  threshold: 0
`

func (c *Console) alertTestBody(r *http.Request) (*alertTest, error) {
	b := &alertTest{Name: r.URL.Query().Get("rule"), Rule: someRule, Lookback: "24h"}
	var found server.Items[server.AlertRow]
	if err := c.get(r, "/alerts/rules", nil, &found); err != nil {
		return nil, err
	}
	for _, x := range found.Items {
		switch {
		case x.Kind == api.KindGlobalAlert:
			b.Rules = append(b.Rules, x.Name)
		case x.Kind == api.KindGlobalAlertTemplate && x.Name == b.Name:
			b.Name, b.Rule = "", x.Rule
		}
	}
	return b, nil
}

func (c *Console) alertTestPage(r *http.Request) (*page, error) {
	b, err := c.alertTestBody(r)
	return &page{name: "alerttest", Title: "Test an alert rule", Nav: "alerts", Body: b}, err
}

func (c *Console) testAlert(_ http.ResponseWriter, r *http.Request) (*page, error) {
	if err := r.ParseForm(); err != nil {
		return nil, badForm(err)
	}
	b, err := c.alertTestBody(r)
	if err != nil {
		return nil, err
	}
	b.Name, b.Rule, b.Lookback = r.PostForm.Get("name"), r.PostForm.Get("text"), strings.TrimSpace(r.PostForm.Get("lookback"))
	q := server.AlertQuestion{Name: b.Name, Lookback: b.Lookback}
	if b.Name == "" {
		q.Rule = b.Rule
	}
	p := &page{name: "alerttest", Title: "Test an alert rule", Nav: "alerts", Body: b}
	return p, p.refuse(c.send(r, http.MethodPost, "/alerts/test", q, &b.Answer))
}

type policiesBody struct {
	server.PolicyList
	Ran    *server.PolicyTests // where tests were run
	Failed int
}

func (c *Console) policies(r *http.Request) (*page, error) {
	var b policiesBody
	if err := c.get(r, "/policies", nil, &b.PolicyList); err != nil {
		return nil, err
	}
	return &page{name: "policies", Title: "Policies", Nav: "policies", Live: "policies", Body: &b}, nil
}

// testPolicies runs the tests that came with the policies.
func (c *Console) testPolicies(_ http.ResponseWriter, r *http.Request) (*page, error) {
	p, err := c.policies(r)
	if err != nil {
		return nil, err
	}
	b := p.Body.(*policiesBody)
	p.Live = "" // what was found stays to be read
	if err := c.send(r, http.MethodPost, "/policies/test", nil, &b.Ran); err != nil {
		return p, p.refuse(err)
	}
	for _, t := range b.Ran.Tests {
		if !t.Pass {
			b.Failed++
		}
	}
	return p, nil
}

type policyBody struct {
	server.PolicyView
	RuleHits []store.RuleHit // of each rule, those that never decided too
	YAML     string
	Rego     []regoFile
}

type regoFile struct{ Name, Text string }

func (c *Console) policy(r *http.Request) (*page, error) {
	var b policyBody
	if err := c.get(r, "/policies/"+segment(r.PathValue("name")), nil, &b.PolicyView); err != nil {
		return nil, err
	}
	text, err := yaml.Marshal(b.Policy)
	if err != nil {
		return nil, err
	}
	b.YAML = string(text)
	for i := range b.Policy.Spec.Rules {
		h := store.RuleHit{Rule: i + 1}
		if k := slices.IndexFunc(b.Hits, func(x store.RuleHit) bool { return x.Rule == h.Rule }); k >= 0 {
			h = b.Hits[k]
		}
		b.RuleHits = append(b.RuleHits, h)
	}
	for _, name := range slices.Sorted(maps.Keys(b.PolicyView.Rego)) {
		b.Rego = append(b.Rego, regoFile{name, b.PolicyView.Rego[name]})
	}
	return &page{name: "policy", Title: b.Name, Nav: "policies", Body: b}, nil
}

func (c *Console) decisions(r *http.Request) (*page, error) {
	l := &list{Noun: "decision", Filters: []filter{
		{Name: "allowed", Label: "Decision", Options: []option{{"", "any"}, {"false", "rejected"}, {"true", "admitted"}}},
		{Name: "namespace", Label: "Namespace"}, {Name: "name", Label: "Workload", Hint: "its whole name"}, {Name: "policy", Label: "Policy", Hint: "one that decided"},
		{Name: "kind", Label: "Kind", Hint: "Deployment", More: true}, {Name: "cluster", Label: "Cluster", More: true},
	}, Columns: []column{{Name: "decision", Label: "Decision"}, {Name: "workload", Label: "Workload"}, {Name: "namespace", Label: "Namespace"}, {Name: "cluster", Label: "Cluster", Optional: true}, {Name: "why", Label: "Why"}, {Name: "marks", Label: "Marks"}, {Name: "at", Label: "When"}}}
	q := l.read(r)
	q.Del("sort")
	q.Del("after")
	if v := r.URL.Query().Get("after"); v != "" {
		q.Set("before", v)
	}
	var found server.Items[store.StoredDecision]
	if err := c.get(r, "/decisions", q, &found); err != nil {
		return nil, err
	}
	for _, d := range found.Items {
		x := d.Record.Decision
		marks := cell{Kind: "chips"}
		if d.Record.Caller == nil || !d.Record.Caller.Authenticated {
			marks.List = append(marks.List, link{Text: "nobody authenticated"})
		}
		l.Rows = append(l.Rows, row{Cells: []cell{decided(x.Allowed), linkTo(x.Kind+" "+x.Name, "/decisions/"+strconv.FormatInt(d.ID, 10)), text(x.Namespace), text(d.Cluster), text(because(x)), marks, when(d.At.UTC().Format(time.RFC3339))}})
	}
	next := ""
	if n := len(found.Items); fmt.Sprint(n) == pageSize {
		next = fmt.Sprint(found.Items[n-1].ID)
	}
	l.Empty = "No decision is recorded that fits. Webhooks send theirs with “assay-webhook --server”."
	l.finish(r, "", next)
	return &page{name: "list", Title: "Decisions", Nav: "decisions", Live: "decision", Body: l}, nil
}

func decided(allowed bool) cell {
	if allowed {
		return cell{Kind: "verdict", Text: "admitted"}
	}
	return cell{Kind: "verdict", Text: "rejected"}
}

// because words why a decision is what it is, in a line.
func because(d api.Decision) string {
	var refused []string
	for _, i := range d.Images {
		if i.Action == api.Reject {
			s := i.Image + " is " + string(i.Result)
			if i.Policy != "" {
				s += ", by " + i.Policy
			}
			refused = append(refused, s)
		}
	}
	switch {
	case len(refused) > 0:
		return cut(strings.Join(refused, "; "), 200)
	case d.Override != nil:
		return "break-glass"
	case d.Reason != "":
		return cut(d.Reason, 200)
	case d.Message != "":
		return cut(d.Message, 200)
	}
	return ""
}

type decisionBody struct {
	store.StoredDecision
	Images []judged
	// Now is what would be decided with the policies and data of this moment.
	Now   *api.Explanation
	Fault *fault
}

type judged struct {
	api.ImageDecision
	URL string
}

func (c *Console) decision(r *http.Request) (*page, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id <= 0 {
		return nil, &fault{Status: http.StatusNotFound, Title: "There is no such decision", Detail: "Its number is not one."}
	}
	var found server.Items[store.StoredDecision]
	if err := c.get(r, "/decisions", url.Values{"before": {fmt.Sprint(id + 1)}, "limit": {"1"}}, &found); err != nil {
		return nil, err
	}
	if len(found.Items) == 0 || found.Items[0].ID != id {
		return nil, &fault{Status: http.StatusNotFound, Title: "There is no such decision", Detail: "It may be older than decisions are kept."}
	}
	b := decisionBody{StoredDecision: found.Items[0]}
	for _, i := range b.Record.Decision.Images {
		j := judged{ImageDecision: i}
		if i.Digest != "" {
			j.URL = imageURL(i.Image, i.Digest)
		}
		b.Images = append(b.Images, j)
	}
	input := b.Record.Input
	input.Now = c.Now().UTC().Format(api.TimeLayout)
	if err := c.send(r, http.MethodPost, "/explain", input, &b.Now); err != nil && !errors.As(err, &b.Fault) {
		return nil, err
	}
	d := b.Record.Decision
	return &page{name: "decision", Title: d.Kind + " " + d.Name, Nav: "decisions", Body: b}, nil
}

type settingsBody struct {
	Thresholds server.ThresholdsView
	Warn, Fail string
	Editable   bool
	Effect     *server.Impact
	Tokens     []server.ListedToken
	Made       *server.MadeToken
	Version    server.VersionView
	Database   api.DatabaseState
	Clusters   []store.Cluster
	Deliveries []store.DeliveryStatus
	Origin     string
	URL        string // of the server, as the browser sees it
}

func (c *Console) settings(r *http.Request) (*page, error) { return c.settingsPage(r) }

func (c *Console) settingsPage(r *http.Request) (*page, error) {
	b := &settingsBody{URL: "http://" + r.Host}
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		b.URL = "https://" + r.Host
	}
	if err := c.get(r, "/thresholds", nil, &b.Thresholds); err != nil {
		return nil, err
	}
	b.Warn, b.Fail = score(b.Thresholds.Warn), score(b.Thresholds.Fail)
	b.Editable = b.Thresholds.Origin == "default" || b.Thresholds.Origin == "api"
	b.Origin = map[string]string{"default": "the defaults", "api": "set here"}[b.Thresholds.Origin]
	if b.Origin == "" {
		b.Origin = "set in the policies, at " + b.Thresholds.Origin
	}
	if err := c.get(r, "/version", nil, &b.Version); err != nil {
		return nil, err
	}
	if err := c.get(r, "/database", nil, &b.Database); err != nil {
		return nil, err
	}
	var clusters server.Items[store.Cluster]
	if err := c.get(r, "/clusters", nil, &clusters); err != nil {
		return nil, err
	}
	b.Clusters = clusters.Items
	var deliveries server.Items[store.DeliveryStatus]
	if err := c.get(r, "/alerts/deliveries", url.Values{"limit": {"20"}}, &deliveries); err != nil {
		return nil, err
	}
	b.Deliveries = deliveries.Items
	p := &page{name: "settings", Title: "Settings", Nav: "settings", Body: b}
	var tokens server.Items[server.ListedToken]
	if err := c.get(r, "/tokens", nil, &tokens); err == nil { // for administrators alone
		b.Tokens = tokens.Items
	}
	return p, nil
}

// setThresholds shows what other thresholds would do; once that was shown, they are set.
func (c *Console) setThresholds(w http.ResponseWriter, r *http.Request) (*page, error) {
	if err := r.ParseForm(); err != nil {
		return nil, badForm(err)
	}
	p, err := c.settingsPage(r)
	if err != nil {
		return nil, err
	}
	b := p.Body.(*settingsBody)
	b.Warn, b.Fail = r.PostForm.Get("warn"), r.PostForm.Get("fail")
	want := b.Thresholds.ThresholdsSpec
	for _, x := range []struct {
		text string
		to   **float64
	}{{b.Warn, &want.Warn}, {b.Fail, &want.Fail}} {
		f, err := strconv.ParseFloat(strings.TrimSpace(x.text), 64)
		if err != nil {
			return p, p.refuse(&fault{Status: http.StatusUnprocessableEntity, Title: "The thresholds are not valid", Detail: fmt.Sprintf("%q is not a number from 0.0 to 10.0", x.text)})
		}
		*x.to = &f
	}
	if r.PostForm.Get("do") == "save" {
		if err = c.send(r, http.MethodPut, "/thresholds", want, nil); err == nil {
			return seeOther(w, r, "/settings", "The thresholds are in force")
		}
		return p, p.refuse(err)
	}
	err = c.send(r, http.MethodPost, "/impact", server.ImpactQuestion{Thresholds: &want}, &b.Effect)
	return p, p.refuse(err)
}

// setRuntimeView shows what runs on the pages, or hides it.
func (c *Console) setRuntimeView(w http.ResponseWriter, r *http.Request) (*page, error) {
	if err := r.ParseForm(); err != nil {
		return nil, badForm(err)
	}
	on := r.PostForm.Get("do") == "on"
	if err := c.send(r, http.MethodPut, "/runtime-view", server.RuntimeView{Enabled: on}, nil); err != nil {
		return nil, err
	}
	text := "What runs is shown"
	if !on {
		text = "What runs is no longer shown"
	}
	return seeOther(w, r, "/settings", text)
}

func (c *Console) makeToken(_ http.ResponseWriter, r *http.Request) (*page, error) {
	if err := r.ParseForm(); err != nil {
		return nil, badForm(err)
	}
	asked := server.NewToken{Name: r.PostForm.Get("name"), Role: r.PostForm.Get("role"), Scope: strings.TrimSpace(r.PostForm.Get("scope"))}
	if end := r.PostForm.Get("expires"); end != "" {
		asked.Expires = end + "T00:00:00Z"
	}
	var made server.MadeToken
	err := c.send(r, http.MethodPost, "/tokens", asked, &made)
	p, pageErr := c.settingsPage(r)
	if pageErr != nil {
		return nil, pageErr
	}
	if err == nil {
		p.Body.(*settingsBody).Made = &made
	}
	return p, p.refuse(err)
}

func (c *Console) endToken(w http.ResponseWriter, r *http.Request) (*page, error) {
	if err := r.ParseForm(); err != nil {
		return nil, badForm(err)
	}
	if err := c.send(r, http.MethodDelete, "/tokens/"+segment(r.PostForm.Get("id")), nil, nil); err != nil {
		return nil, err
	}
	return seeOther(w, r, "/settings", "The token is ended")
}

func (c *Console) jobs(r *http.Request) (*page, error) {
	l := &list{Noun: "job", Filters: []filter{
		{Name: "kind", Label: "Kind", Hint: "match"},
		{Name: "state", Label: "State", Options: []option{{"", "any"}, {"available", "available"}, {"running", "running"}, {"scheduled", "scheduled"}, {"retryable", "retryable"}, {"completed", "completed"}, {"cancelled", "cancelled"}, {"discarded", "discarded"}}},
	}, Columns: []column{{Name: "id", Label: "Number", Number: true}, {Name: "kind", Label: "Kind"}, {Name: "subject", Label: "About"}, {Name: "state", Label: "State"}, {Name: "attempt", Label: "Attempts", Number: true}, {Name: "error", Label: "Error"}, {Name: "created", Label: "Created"}}}
	q := l.read(r)
	q.Del("sort")
	q.Del("after")
	var found server.Items[jobs.Job]
	if err := c.get(r, "/jobs", q, &found); err != nil {
		return nil, err
	}
	for _, j := range found.Items {
		l.Rows = append(l.Rows, row{Cells: []cell{{Kind: "number", Text: fmt.Sprint(j.ID)}, text(j.Kind), {Kind: "code", Text: cut(j.Subject, 80)}, text(j.State), number(j.Attempt), text(cut(j.Error, 200)), when(j.Created.UTC().Format(time.RFC3339))}})
	}
	l.Empty = "No job fits."
	l.finish(r, "", "")
	return &page{name: "list", Title: "Jobs", Nav: "settings", Body: l}, nil
}
