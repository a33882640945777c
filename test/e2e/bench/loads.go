package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
	"github.com/assay-dev/assay/policies"
)

func marshalKey(pair tls.Certificate) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

func (b *bench) client(connections int) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b.cert.ca)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections,
	}}
}

// Load is one load straight on the webhook.
type Load struct {
	Name      string  `json:"name"`
	PerSecond float64 `json:"reviews_per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	Errors    int     `json:"errors"`
}

// review is that of a Pod as the API server has it.
func (b *bench) review() ([]byte, error) {
	pods := b.cluster.Client.CoreV1().Pods("none")
	p, err := pods.Create(b.ctx, realPod("review"), metav1.CreateOptions{FieldManager: "kubectl-client-side-apply"})
	if err != nil {
		return nil, err
	}
	p.APIVersion, p.Kind = "v1", "Pod"
	object, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	fmt.Printf("the object of a review has %d bytes\n", len(object))
	return json.Marshal(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": map[string]any{
		"uid": "5d1a3f6e-0b0c-4c39-9c1e-6f0d2a7b8e41", "kind": map[string]string{"group": "", "version": "v1", "kind": "Pod"},
		"resource": map[string]string{"group": "", "version": "v1", "resource": "pods"}, "namespace": "none", "name": "review", "operation": "CREATE",
		"userInfo": map[string]any{"username": "jane", "groups": []string{"system:authenticated"}}, "object": json.RawMessage(object), "dryRun": false,
	}})
}

func (b *bench) loads() ([]Load, error) {
	h, err := b.start("load", rulebook(200, false))
	if err != nil {
		return nil, err
	}
	body, err := b.review()
	if err != nil {
		return nil, err
	}
	client := b.client(16)
	send := func() error {
		r, err := client.Post(h.url+"/admit?timeout=10s", "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err == nil && (r.StatusCode != http.StatusOK || !bytes.Contains(text, []byte(`"allowed":true`))) {
			err = fmt.Errorf("%s: %s", r.Status, text)
		}
		return err
	}
	for range 200 {
		if err := send(); err != nil {
			return nil, err
		}
	}
	var out []Load
	out = append(out, closed("200 policies, 16 connections, closed loop", b.load, send))
	out = append(out, open("200 policies, 500 reviews/s", b.load, 500, send))
	stop := make(chan struct{})
	var reloading sync.WaitGroup
	reloads := 0
	reloading.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
			name := filepath.Join(h.dir, "policies", "policies.yaml")
			text := rulebook(200, false) + fmt.Sprintf(policy, fmt.Sprintf("r%d", reloads), "{action: Allow, imagePath: {operator: IsOneOf, values: ['^none/']}}")
			if os.WriteFile(name+".new", []byte(text), 0o600) == nil && os.Rename(name+".new", name) == nil {
				reloads++
			}
		}
	})
	out = append(out, open("the same while policies reload each second", b.load, 500, send))
	close(stop)
	reloading.Wait()
	return out, nil
}

func closed(name string, length time.Duration, send func() error) Load {
	var mu sync.Mutex
	var took []time.Duration
	var errors atomic.Int64
	var all sync.WaitGroup
	begun := time.Now()
	for range 16 {
		all.Go(func() {
			for time.Since(begun) < length {
				at := time.Now()
				if send() != nil {
					errors.Add(1)
				}
				t := time.Since(at)
				mu.Lock()
				took = append(took, t)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return Load{name, float64(len(took)) / time.Since(begun).Seconds(), quantile(took, 0.5), quantile(took, 0.99), int(errors.Load())}
}

// open sends at a pace, whether or not answers come; a review's time counts from when it was due.
func open(name string, length time.Duration, perSecond int, send func() error) Load {
	var mu sync.Mutex
	var took []time.Duration
	var errors atomic.Int64
	var all sync.WaitGroup
	begun := time.Now()
	pause := time.Second / time.Duration(perSecond)
	for n := 0; ; n++ {
		due := begun.Add(time.Duration(n) * pause)
		if due.Sub(begun) > length {
			break
		}
		time.Sleep(time.Until(due))
		all.Go(func() {
			if send() != nil {
				errors.Add(1)
			}
			t := time.Since(due)
			mu.Lock()
			took = append(took, t)
			mu.Unlock()
		})
	}
	all.Wait()
	return Load{name, float64(len(took)) / time.Since(begun).Seconds(), quantile(took, 0.5), quantile(took, 0.99), int(errors.Load())}
}

// fleet is n images with 200 CVEs each, of a catalogue of 20,000.
func fleet(n int, version int) []api.Scan {
	r := rand.New(rand.NewPCG(1, uint64(version)))
	list := make([]api.Scan, n)
	for i := range list {
		list[i] = api.Scan{Image: fmt.Sprintf("registry.example.com/prod/app-%d:1", i), Digest: fmt.Sprintf("sha256:%016x%048x", uint64(i)*0x9e3779b97f4a7c15, i),
			Source: "registry", ScannedAt: time.Unix(1_790_000_000+int64(version), 0).UTC(), Packages: 100}
		for range 200 {
			k := r.IntN(20_000)
			score := float64(10+k%90) / 10
			list[i].Vulnerabilities = append(list[i].Vulnerabilities, api.Vulnerability{ID: fmt.Sprintf("CVE-20%02d-%05d", 10+k%16, k), Package: "p", Version: "1", Type: "deb", CVSS: &score, Severity: "High"})
		}
	}
	return list
}

// sizes measures memory, and how long a start from disk takes.
func (b *bench) sizes(out map[string]any) error {
	h, err := b.start("policies-only", rulebook(200, false))
	if err != nil {
		return err
	}
	time.Sleep(5 * time.Second)
	out["RSS with 200 policies and no images, MB"] = memory(h, "VmRSS")

	private, public, err := bundles.GenerateKey()
	if err != nil {
		return err
	}
	key, err := bundles.ParseSigningKey(private)
	if err != nil {
		return err
	}
	publicFile := filepath.Join(b.dir, "assay.pub")
	if err := os.WriteFile(publicFile, public, 0o600); err != nil {
		return err
	}
	handler := serve.New(serve.Limits{})
	server := httptest.NewServer(handler)
	defer server.Close()
	defer handler.Close()
	set := func(version int) error {
		policies, err := policies.Parse("policies.yaml", []byte(rulebook(200, false)))
		if err != nil {
			return err
		}
		parts, err := bundles.Split(bundles.Content{Policies: policies, Scans: fleet(b.images, version)})
		if err != nil {
			return err
		}
		packed := map[string][]byte{}
		for name, part := range parts {
			if packed[name], err = bundles.Pack(part, key); err != nil {
				return err
			}
		}
		for name, text := range packed {
			handler.Set(name, text)
		}
		now := time.Now()
		return handler.Issue(bundles.Head{Store: "bench", Sequence: now.UnixMicro(), Time: now, Until: now.Add(time.Hour)}, key, bundles.Parts())
	}
	if err := set(0); err != nil {
		return err
	}
	args := []string{"--server", server.URL, "--verification-key", publicFile, "--persist", filepath.Join(b.dir, "persist")}
	if h, err = b.start("images", "", args...); err != nil {
		return err
	}
	time.Sleep(10 * time.Second)
	images := fmt.Sprintf("%d images × 200 CVEs", b.images)
	out["RSS at rest, "+images+", MB"] = memory(h, "VmRSS")
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", h.cmd.Process.Pid), []byte("5"), 0); err != nil { // the peak begins anew
		return err
	}
	if err := set(1); err != nil {
		return err
	}
	time.Sleep(15 * time.Second)
	out["peak RSS while all of them are loaded anew, MB"] = memory(h, "VmHWM")
	out["RSS afterwards, MB"] = memory(h, "VmRSS")
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
	handler.Close()
	server.Close()
	begun := time.Now()
	if h, err = b.start("restarted", "", args...); err != nil {
		return err
	}
	out["ready from disk without the server, "+images+", s"] = fmt.Sprintf("%.2f", time.Since(begun).Seconds())
	return nil
}

// memory is a figure of a process in MB.
func memory(h *hook, what string) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.cmd.Process.Pid))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, what+":"); ok {
			kB, _ := strconv.Atoi(strings.Fields(rest)[0])
			return kB / 1000
		}
	}
	return -1
}
