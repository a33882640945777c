package agreement_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/test/corpus"
)

// The command, the API, the webhook and stock OPA decide incomplete reviews, and those of kinds of
// other projects, alike: those that are read, with the same images and messages; and those that one
// cannot read are admitted by none. What is not judged they say alike; OPA says why.
func TestSurfacesAgreeOnMalformedReviews(t *testing.T) {
	bin, stock := filepath.Join(t.TempDir(), "assay"), opa(t)
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/assay-dev/assay/cmd/assay").CombinedOutput(); err != nil {
		t.Fatalf("building assay: %v\n%s", err, out)
	}
	compared, refused, notJudged := 0, 0, 0
	for _, seed := range []uint64{3, 11, 19} {
		w := load(t, seed)
		// No surface has a scan: what is known of images is not what this is about.
		b, err := bundles.Build(bundles.Content{Policies: w.set})
		if err != nil {
			t.Fatal(err)
		}
		w.engine = engine.New(engine.Config{})
		if err := w.engine.Load(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		bundle, err := bundles.Bytes(b)
		if err != nil {
			t.Fatal(err)
		}
		g := rand.New(rand.NewPCG(seed, 0xface))
		var docs []map[string]any
		for other := range uint64(20) {
			for _, r := range load(t, other).Reviews {
				doc := incomplete(g, r)
				doc["now"] = w.Now.Format(time.RFC3339Nano)
				docs = append(docs, doc)
			}
		}
		for _, m := range corpus.Manifests(seed, 100) {
			docs = append(docs, creationOf(m.Object, w.Now))
		}
		dir := t.TempDir()
		if err := corpus.WriteFolder(dir, w.Case); err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(dir, "policies")
		byCommand, byOPA := asCommand(t, bin, dir, folder, docs), asOPA(t, stock, dir, bundle, docs)
		ask := startServer(t, bin, folder)
		for i, doc := range docs {
			byAPI := ask(doc)
			allowed, _, byWebhook := w.asWebhook(t, doc)
			compared++
			text, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			if byCommand[i] == nil || byAPI == nil {
				refused++
				if byCommand[i] != nil || byAPI != nil || byOPA[i].Allowed || allowed {
					t.Errorf("seed %d, %s\ncommand %s\nAPI %s\nOPA %s\nthe webhook admits: %v", seed, text, show(byCommand[i]), show(byAPI), show(byOPA[i]), allowed)
				}
				continue
			}
			byCommand[i].Revisions, byAPI.Revisions, byOPA[i].Revisions = nil, nil, nil
			if left := byAPI.NotJudged; left != nil {
				notJudged++
				if len(left.Images) == 0 || left.Reason != byOPA[i].Reason && (!byOPA[i].Judged || left.Reason != review.Elsewhere) {
					t.Errorf("seed %d, %s\nnot judged: %s\nOPA %s", seed, text, show(left), show(byOPA[i]))
				}
			}
			if show(byAPI.NotJudged) != show(byWebhook) {
				t.Errorf("seed %d, %s\nnot judged, API %s, webhook %s", seed, text, show(byAPI.NotJudged), show(byWebhook))
			}
			if show(byCommand[i]) != show(byAPI) || show(byAPI.Decision) != show(byOPA[i]) || allowed != byOPA[i].Allowed {
				t.Errorf("seed %d, %s\ncommand %s\nAPI     %s\nOPA     %s\nthe webhook admits: %v", seed, text, show(byCommand[i]), show(byAPI), show(byOPA[i]), allowed)
			}
		}
	}
	t.Logf("%d reviews are decided alike by four surfaces, %d of them refused unread, %d with images that are not judged", compared, refused, notJudged)
	if compared < 400 || refused < 10 || notJudged < 100 {
		t.Error("the corpus is too thin")
	}
}

// creationOf is the review of a creation.
func creationOf(object map[string]any, now time.Time) map[string]any {
	group, _, grouped := strings.Cut(object["apiVersion"].(string), "/")
	if !grouped {
		group = ""
	}
	return map[string]any{"now": now.Format(time.RFC3339Nano), "request": map[string]any{
		"uid": "u1", "kind": map[string]any{"group": group, "version": "v1", "kind": object["kind"]}, "operation": "CREATE", "namespace": "shop",
		"name": "it", "userInfo": map[string]any{"username": "alice"}, "object": object,
	}}
}

// asCommand are the decisions of `assay admit` on one file of all reviews, nil for what it cannot read.
func asCommand(t *testing.T, bin, dir, folder string, docs []map[string]any) []*api.Answer {
	t.Helper()
	var text bytes.Buffer
	for _, doc := range docs {
		if err := json.NewEncoder(&text).Encode(doc); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "reviews.json")
	if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(bin, "admit", "-f", file, "--policies", folder, "-o", "json")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	var result api.Admission
	if jsonErr := json.Unmarshal(out, &result); jsonErr != nil {
		t.Fatalf("%v %v\n%s", err, jsonErr, &stderr)
	}
	if len(result.Resources)+len(result.Unreadable) != len(docs) {
		t.Fatalf("%d decisions and %d faults for %d reviews", len(result.Resources), len(result.Unreadable), len(docs))
	}
	list := make([]*api.Answer, len(docs))
	for _, r := range result.Resources {
		list[r.Document-1] = &api.Answer{Decision: r.Decision}
	}
	for _, left := range result.NotJudged {
		list[left.Document-1].NotJudged = &left.Unjudged
	}
	return list
}

// startServer runs `assay serve`, and asks it: nil is what it cannot read.
func startServer(t *testing.T, bin, folder string) func(doc map[string]any) *api.Answer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	data := t.TempDir()
	c := exec.CommandContext(ctx, bin, "serve", "--data", data, "--policies", folder, "--listen", address)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.Env = append(os.Environ(), "HOME="+t.TempDir())
	var log bytes.Buffer
	c.Stderr = &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = c.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		r, err := http.Get("http://" + address + "/readyz")
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server is not ready: %v", err)
		}
	}
	token, err := os.ReadFile(filepath.Join(data, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	return func(doc map[string]any) *api.Answer {
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/api/v1/admit", bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		r.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		switch answer.StatusCode {
		case http.StatusOK:
			var d api.Answer
			if err := json.Unmarshal(body, &d); err != nil {
				t.Fatal(err)
			}
			return &d
		case http.StatusUnprocessableEntity:
			return nil
		}
		t.Fatalf("%d: %s", answer.StatusCode, body)
		return nil
	}
}
