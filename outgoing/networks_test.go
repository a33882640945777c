package outgoing_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/outgoing"
)

func allowed(t *testing.T, networks ...string) outgoing.Networks {
	t.Helper()
	list, err := outgoing.ParseNetworks(networks)
	if err != nil {
		t.Fatal(err)
	}
	return outgoing.Networks{Public: true, Allowed: list}
}

func TestCheck(t *testing.T) {
	for _, text := range []string{
		"127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200",
		"168.63.129.16", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1", "5f00::1", "100::1",
		"::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::127.0.0.1", "::a00:1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8",
		"::ffff:0:127.0.0.1",
	} {
		if err := allowed(t).Check(netip.MustParseAddr(text)); !errors.Is(err, outgoing.ErrAddress) {
			t.Errorf("%s is dialled: %v", text, err)
		}
	}
	for _, text := range []string{"8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "192.0.1.1", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"} {
		if err := allowed(t).Check(netip.MustParseAddr(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	n := allowed(t, "10.0.0.0/8", "fd00::/8", "127.0.0.1")
	for text, ok := range map[string]bool{"10.1.1.1": true, "::ffff:10.1.1.1": true, "11.0.0.1": true, "192.168.0.1": false, "fd00::1": true, "fc00::1": false, "127.0.0.1": true, "127.0.0.2": false} {
		if err := n.Check(netip.MustParseAddr(text)); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := (outgoing.Networks{}).Check(netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Errorf("any network: %v", err)
	}
}

func TestParseNetworks(t *testing.T) {
	for _, text := range []string{"", "10.0.0.0", "x", "10.0.0.1/8", "10.0.0.0/33", "::ffff:10.0.0.0/104", "fe80::1%eth0", "10.0.0/8", "0x0a.0.0.0/8"} {
		if list, err := outgoing.ParseNetworks([]string{text}); (err == nil) != (text == "10.0.0.0") {
			t.Errorf("%q: %v %v", text, list, err)
		}
	}
}

// Whatever the spelling, and wherever it redirects to, nothing on this machine answers.
func TestTransport(t *testing.T) {
	asked := 0
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer inside.Close()
	_, port, err := net.SplitHostPort(inside.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: allowed(t).Transport(), Timeout: 10 * time.Second}
	for _, host := range []string{
		"127.0.0.1", "localhost", "localhost.", "LOCALHOST", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "0", "0.0.0.0", "127.0.0.1.",
		"[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::127.0.0.1]", "[::127.0.0.1]",
	} {
		r, err := client.Get("http://" + host + ":" + port + "/")
		if err == nil {
			r.Body.Close()
			t.Errorf("%s answers", host)
		} else if !errors.Is(err, outgoing.ErrAddress) {
			t.Errorf("%s is refused by chance: %v", host, err)
		}
	}
	if asked != 0 {
		t.Errorf("it was asked %d times", asked)
	}

	// A redirect from where it may go to where it may not.
	outside := httptest.NewUnstartedServer(http.RedirectHandler("http://127.0.0.1:"+port+"/", http.StatusFound))
	outside.Listener.Close()
	if outside.Listener, err = net.Listen("tcp", "127.0.0.2:0"); err != nil {
		t.Fatal(err)
	}
	outside.Start()
	defer outside.Close()
	client.Transport = allowed(t, "127.0.0.2").Transport()
	r, err := client.Get(outside.URL)
	if err == nil {
		r.Body.Close()
	}
	if !errors.Is(err, outgoing.ErrAddress) || asked != 0 {
		t.Errorf("a redirect: %v, asked %d times", err, asked)
	}
	client.Transport = allowed(t, "127.0.0.0/8").Transport()
	if r, err = client.Get(outside.URL); err != nil || asked != 1 {
		t.Fatalf("what is allowed: %v, asked %d times", err, asked)
	}
	r.Body.Close()
}

// A name is looked at by what it means when it is dialled: one that was public a moment
// ago, and has two addresses, leads nowhere inside.
func TestRebinding(t *testing.T) {
	dial := allowed(t).Transport().DialContext
	resolver := net.DefaultResolver
	defer func() { net.DefaultResolver = resolver }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return answer(t, [4]byte{127, 0, 0, 1}, [4]byte{169, 254, 169, 254}, [4]byte{10, 0, 0, 1}), nil
	}}
	conn, err := dial(t.Context(), "tcp", "rebinding.example.com:443")
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, outgoing.ErrAddress) {
		t.Errorf("a name: %v", err)
	}
}

// proxied is a child: what the environment says of proxies is read once.
const proxied = "ASSAY_TEST_PROXIED"

// Behind a proxy, which resolves names itself, what is plainly inside is not asked for.
func TestProxy(t *testing.T) {
	if urls := os.Getenv(proxied); urls != "" {
		client := http.Client{Transport: allowed(t).Transport(), Timeout: 10 * time.Second}
		for _, u := range strings.Fields(urls) {
			r, err := client.Get(u)
			switch {
			case err == nil:
				r.Body.Close()
				t.Logf("SAYS %s %d", u, r.StatusCode)
			case errors.Is(err, outgoing.ErrAddress):
				t.Logf("SAYS %s refused", u)
			default:
				t.Logf("SAYS %s %v", u, err)
			}
		}
		return
	}
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.URL.Host) }))
	defer proxy.Close()
	child := exec.Command(os.Args[0], "-test.run=^TestProxy$", "-test.v")
	child.Env = append(os.Environ(), "HTTP_PROXY="+proxy.URL, "NO_PROXY=",
		proxied+"=http://registry.example.invalid/ http://8.8.8.8/ http://10.0.0.1/ http://0x7f.1/ http://x.localhost/ http://[::ffff:10.0.0.1]/")
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var said []string
	for s := bufio.NewScanner(strings.NewReader(string(out))); s.Scan(); {
		if _, text, ok := strings.Cut(s.Text(), "SAYS "); ok {
			said = append(said, text)
		}
	}
	want := "http://registry.example.invalid/ 200|http://8.8.8.8/ 200|http://10.0.0.1/ refused|http://0x7f.1/ refused|http://x.localhost/ refused|http://[::ffff:10.0.0.1]/ refused"
	if got := strings.Join(said, "|"); got != want || len(asked) != 2 {
		t.Errorf("%s\nwant %s\nthe proxy was asked for %v", got, want, asked)
	}
}
