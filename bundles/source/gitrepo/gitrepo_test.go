package gitrepo_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/bundles/source/gitrepo"
	"github.com/assay-dev/assay/policies"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// patience bounds what a test waits for; nothing is asserted to be faster.
const patience = time.Minute

func policy(name string) string {
	return fmt.Sprintf(`apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: %s}
spec: {rules: [{action: Reject}]}
`, name)
}

// repo is a real git repository.
type repo struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T) repo {
	r := repo{t, t.TempDir()}
	r.git("init", "-q", "-b", "main")
	return r
}

func (r repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "HOME="+r.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r repo) write(name, text string) {
	r.t.Helper()
	name = filepath.Join(r.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
		r.t.Fatal(err)
	}
}

func (r repo) link(target, name string) {
	r.t.Helper()
	if err := os.Symlink(target, filepath.Join(r.dir, name)); err != nil {
		r.t.Fatal(err)
	}
}

// commit commits all and gives the commit's id.
func (r repo) commit() string {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", "change")
	return r.git("rev-parse", "HEAD")
}

func (r repo) source() gitrepo.Source {
	return gitrepo.Source{URL: "file://" + r.dir, Every: 20 * time.Millisecond}
}

func run(t *testing.T, s gitrepo.Source) <-chan source.Update {
	t.Helper()
	updates := make(chan source.Update, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func(u source.Update) { updates <- u }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return updates
}

// next is the next update. A commit is one state: there is none in between.
func next(t *testing.T, updates <-chan source.Update) source.Update {
	t.Helper()
	select {
	case u := <-updates:
		if (u.Set == nil) == (u.Err == nil) {
			t.Fatalf("an update has both or neither of policies and error: %+v", u)
		}
		return u
	case <-time.After(patience):
		t.Fatalf("no update within %s", patience)
	}
	panic("not reached")
}

func names(u source.Update) string {
	var all []string
	if u.Set != nil {
		for _, p := range u.Set.Policies {
			all = append(all, p.Metadata.Name)
		}
	}
	return strings.Join(all, " ")
}

func expect(t *testing.T, updates <-chan source.Update, revision, want string) {
	t.Helper()
	if u := next(t, updates); u.Err != nil || u.Revision != revision || names(u) != want {
		t.Fatalf("got %s %q (%v), want %s %q", u.Revision, names(u), u.Err, revision, want)
	}
}

func TestFollowsBranch(t *testing.T) {
	r := newRepo(t)
	r.write("p/one.yaml", policy("one"))
	r.write("elsewhere/bad.yaml", "bad")
	first := r.commit()
	s := r.source()
	s.Folder = "p"
	updates := run(t, s)
	expect(t, updates, first, "one")

	r.write("p/two.yaml", policy("two"))
	expect(t, updates, r.commit(), "one two")

	// A bad revision is told with its commit and diagnostics.
	r.write("p/two.yaml", strings.Replace(policy("two"), "Reject", "Regret", 1))
	bad := r.commit()
	u := next(t, updates)
	var diags policies.Diagnostics
	if !errors.As(u.Err, &diags) || u.Revision != bad || diags[0].File != "two.yaml" || diags[0].Line != 4 {
		t.Fatalf("got %+v", u)
	}

	r.git("revert", "--no-edit", "HEAD")
	expect(t, updates, r.git("rev-parse", "HEAD"), "one two")

	// Force-pushed back.
	r.git("reset", "-q", "--hard", first)
	expect(t, updates, first, "one")

	r.git("rm", "-rq", "p")
	gone := r.commit()
	if u := next(t, updates); u.Revision != gone || u.Err == nil || !strings.Contains(u.Err.Error(), "has no folder p") {
		t.Fatalf("got %+v", u)
	}

	// The repository goes and comes back.
	r.git("reset", "-q", "--hard", first)
	expect(t, updates, first, "one")
	if err := os.Rename(r.dir+"/.git", r.dir+"/gone"); err != nil {
		t.Fatal(err)
	}
	if u := next(t, updates); u.Err == nil || u.Revision != "" || !strings.Contains(u.Err.Error(), "reading file://") {
		t.Fatalf("got %+v", u)
	}
	if err := os.Rename(r.dir+"/gone", r.dir+"/.git"); err != nil {
		t.Fatal(err)
	}
	for u := next(t, updates); ; u = next(t, updates) { // an error can read otherwise halfway through
		if u.Err == nil {
			if u.Revision != first {
				t.Errorf("revision %s, want %s", u.Revision, first)
			}
			break
		}
	}
}

func TestRefs(t *testing.T) {
	r := newRepo(t)
	r.write("p.yaml", policy("one"))
	one := r.commit()
	r.git("tag", "light")
	r.git("tag", "-a", "annotated", "-m", "x")
	r.git("branch", "release/1")
	r.write("p.yaml", policy("two"))
	two := r.commit()
	r.git("config", "uploadpack.allowReachableSHA1InWant", "true") // as the large hosts have it
	for ref, want := range map[string]string{
		"": two, "HEAD": two, "main": two, "refs/heads/main": two, "release/1": one,
		"light": one, "annotated": one, "refs/tags/annotated": one, two: two,
	} {
		s := r.source()
		s.Ref = ref
		if u := next(t, run(t, s)); u.Err != nil || u.Revision != want {
			t.Errorf("ref %q: %s (%v), want %s", ref, u.Revision, u.Err, want)
		}
	}
	for ref, want := range map[string]string{"none": "it has no ref none", "+main:x": "it has no ref", strings.Repeat("0", 39) + "1": "reading file://"} {
		s := r.source()
		s.Ref = ref
		if u := next(t, run(t, s)); u.Err == nil || !strings.Contains(u.Err.Error(), want) {
			t.Errorf("ref %q: %+v, want %q", ref, u, want)
		}
	}
}

func TestLinksStayInside(t *testing.T) {
	r := newRepo(t)
	r.write("p/real/one.txt", policy("one"))
	r.write("secret.yaml", policy("secret"))
	r.link("real/one.txt", "p/link.yaml")
	s := r.source()
	s.Folder = "p"
	updates := run(t, s)
	_ = r.commit()
	for {
		if u := next(t, updates); u.Err == nil {
			if names(u) != "one" {
				t.Errorf("got %q", names(u))
			}
			break
		}
	}
	outside := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(outside, []byte(policy("outside")), 0o644); err != nil {
		t.Fatal(err)
	}
	r.link("../secret.yaml", "p/up.yaml")
	r.link(outside, "p/absolute.yaml")
	r.link("real/../../secret.yaml", "p/round.yaml")
	r.link("circle.yaml", "p/circle.yaml")
	r.link("nowhere", "p/dangling.yaml")
	r.link("real", "p/folder.yaml")
	r.write("p/.hidden/x", "")
	r.link("/etc/passwd", "p/.hidden/ignored.yaml")
	bad := r.commit()
	u := next(t, updates)
	if u.Revision != bad {
		t.Fatalf("got %+v", u)
	}
	for file, want := range map[string]string{
		"up.yaml": "out of the folder", "absolute.yaml": "out of the folder", "round.yaml": "out of the folder",
		"circle.yaml": "in a circle", "dangling.yaml": "leads to no file", "folder.yaml": "leads to no file",
	} {
		if !regexp.MustCompile(`(?m)^` + file + ": is a link .*" + want + `$`).MatchString(u.Err.Error()) {
			t.Errorf("%s: want %q in %v", file, want, u.Err)
		}
	}
	if strings.Contains(u.Err.Error(), "ignored") {
		t.Errorf("a hidden file counts: %v", u.Err)
	}
}

// A commit is bounded as it comes over the wire, and in what it unpacks to.
func TestBounds(t *testing.T) {
	noise := make([]byte, 300_000)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string][]string{
		"large":    {string(noise)},
		"unpacked": {strings.Repeat("0", 300_000)},
		// Stored as a small delta against its neighbour, of which one alone is below the bound.
		"delta": {string(noise[:180_000]), string(noise[:180_000]) + "x"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t)
			r.write("p.yaml", policy("one"))
			for i, text := range files {
				r.write(fmt.Sprintf("large%d", i), text)
			}
			commit := r.commit()
			r.git("gc", "-q", "--aggressive")
			s := r.source()
			s.MaxBytes = 200_000
			if u := next(t, run(t, s)); u.Revision != commit || u.Err == nil || !strings.Contains(u.Err.Error(), "has more than 200000 bytes") {
				t.Errorf("got %+v", u)
			}
			s.MaxBytes = 0
			expect(t, run(t, s), commit, "one")
		})
	}
	r := newRepo(t)
	r.write("p.yaml", "# "+strings.Repeat("x", policies.MaxFile))
	r.commit()
	if u := next(t, run(t, r.source())); u.Err == nil || !strings.Contains(u.Err.Error(), "p.yaml: ") {
		t.Errorf("a file too large: %+v", u)
	}
}

// A look that takes too long ends.
func TestTimeout(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	s := gitrepo.Source{URL: server.URL, CAFile: caFile(t, server), Timeout: 50 * time.Millisecond, Every: time.Hour}
	if u := next(t, run(t, s)); !errors.Is(u.Err, context.DeadlineExceeded) {
		t.Errorf("got %v", u.Err)
	}
}

func caFile(t *testing.T, s *httptest.Server) string {
	name := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(name, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// Over https from git's own server, with a token.
func TestHTTPS(t *testing.T) {
	r := newRepo(t)
	r.write("p.yaml", policy("one"))
	one := r.commit()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{Path: git, Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + r.dir, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + r.dir},
		InheritEnv: []string{"PATH"}, Stderr: io.Discard}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if user, password, _ := req.BasicAuth(); user != "git" || password != "token" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, req)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshake that is to fail
	server.StartTLS()
	defer server.Close()
	token := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong")
	s := gitrepo.Source{URL: server.URL + "/.git", PasswordFile: token, CAFile: caFile(t, server), Every: 20 * time.Millisecond}
	updates := run(t, s)
	if u := next(t, updates); u.Err == nil || strings.Contains(u.Err.Error(), "wrong") {
		t.Fatalf("with a wrong token: %+v", u)
	}
	write("token\n") // as a rotated secret is
	for u := next(t, updates); ; u = next(t, updates) {
		if u.Err == nil {
			if u.Revision != one {
				t.Errorf("revision %s, want %s", u.Revision, one)
			}
			break
		}
	}
	r.write("p.yaml", policy("two"))
	expect(t, updates, r.commit(), "two")

	s.CAFile = ""
	if u := next(t, run(t, s)); u.Err == nil || !strings.Contains(u.Err.Error(), "certificate") {
		t.Errorf("a certificate that is not trusted: %+v", u)
	}
}

// Over ssh with a key, from a server whose key is known.
func TestSSH(t *testing.T) {
	r := newRepo(t)
	r.write("p.yaml", policy("one"))
	one := r.commit()
	dir := t.TempDir()
	_, client, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(client, "")
	if err != nil {
		t.Fatal(err)
	}
	clientKey, err := ssh.NewSignerFromKey(client)
	if err != nil {
		t.Fatal(err)
	}
	address, hostKey := sshServer(t, clientKey.PublicKey())
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	strangerKey, err := ssh.NewSignerFromKey(stranger)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"key":     string(pem.EncodeToMemory(block)),
		"known":   knownhosts.Line([]string{address}, hostKey) + "\n",
		"unknown": knownhosts.Line([]string{address}, strangerKey.PublicKey()) + "\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := gitrepo.Source{URL: "ssh://git@" + address + r.dir, SSHKeyFile: dir + "/key", KnownHostsFile: dir + "/known", Every: 20 * time.Millisecond}
	updates := run(t, s)
	expect(t, updates, one, "one")
	r.write("p.yaml", policy("two"))
	expect(t, updates, r.commit(), "two")

	s.KnownHostsFile = dir + "/unknown"
	if u := next(t, run(t, s)); u.Err == nil || !strings.Contains(u.Err.Error(), "knownhosts") {
		t.Errorf("another host key: %+v", u)
	}
	s.SSHKeyFile = dir + "/known"
	if u := next(t, run(t, s)); u.Err == nil {
		t.Errorf("no key: %+v", u)
	}
}

// sshServer runs git-upload-pack for whoever has the key.
func sshServer(t *testing.T, client ssh.PublicKey) (address string, hostKey ssh.PublicKey) {
	t.Helper()
	_, host, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(host)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(client.Marshal()) {
			return nil, errors.New("another key")
		}
		return nil, nil
	}}
	config.AddHostKey(signer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { listener.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serveSSH(conn, config) })
		}
	})
	return listener.Addr().String(), signer.PublicKey()
}

func serveSSH(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			var command struct{ Text string }
			if r.Type != "exec" || ssh.Unmarshal(r.Payload, &command) != nil {
				_ = r.Reply(false, nil)
				continue
			}
			_ = r.Reply(true, nil)
			path, _ := strings.CutPrefix(command.Text, "git-upload-pack ")
			cmd := exec.Command("git", "upload-pack", strings.Trim(path, "'"))
			cmd.Stdout = channel
			stdin, err := cmd.StdinPipe()
			if err == nil && cmd.Start() == nil {
				go func() { _, _ = io.Copy(stdin, channel); stdin.Close() }()
				_ = cmd.Wait()
			}
			_, _ = channel.SendRequest("exit-status", false, make([]byte, 4))
			channel.Close()
		}
	}
}

// What no try can mend ends at once.
func TestRefusedAtOnce(t *testing.T) {
	for url, want := range map[string]string{
		"https://user:secret@example.com/x.git": "must hold no password",
		"http://example.com/x.git":              "http is not supported",
		"git://example.com/x.git":               "git is not supported",
		"ext::sh -c id":                         "no folder",
	} {
		s := gitrepo.Source{URL: url, Folder: "../x"}
		err := s.Run(t.Context(), func(source.Update) { t.Error("an update") })
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
}
