package webhook

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/assay-dev/assay/api"
)

func TestResolve(t *testing.T) {
	asked, slow := 0, false
	inner := registry.New()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			asked++
		}
		if slow {
			time.Sleep(3 * time.Second)
		}
		inner.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "https://")
	image, err := random.Image(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(host + "/shop/web:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image, remote.WithTransport(server.Client().Transport)); err != nil {
		t.Fatal(err)
	}
	want, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	asked = 0
	r := NewResolver([]string{host + "/shop"}, nil, slog.New(slog.NewTextHandler(io.Discard, nil)))
	local := r.Transport
	r.Transport = server.Client().Transport
	resolve := func(images ...string) (digests []string) {
		var list []api.Container
		for _, i := range images {
			list = append(list, api.NewContainer("c", i))
		}
		r.Resolve(context.Background(), list)
		for _, c := range list {
			digests = append(digests, c.Digest)
		}
		return digests
	}
	pinned := host + "/shop/web@sha256:" + strings.Repeat("a", 64)
	got := resolve(host+"/shop/web:1", host+"/shop/web:none", host+"/other/web:1", pinned, "Not An Image")
	if got[0] != want.String() || got[1] != "" || got[2] != "" || !strings.HasPrefix(got[3], "sha256:aaaa") || got[4] != "" || asked != 2 {
		t.Errorf("%v, asked %d times", got, asked)
	}
	if resolve(host + "/shop/web:1"); asked != 2 {
		t.Error("a tag that is known is asked for again")
	}
	r.Transport = local
	if got := resolve(host + "/shop/inside:1"); got[0] != "" || asked != 2 {
		t.Errorf("a registry on loopback is asked: %v", got)
	}
	r.Transport = server.Client().Transport
	slow = true
	begun := time.Now()
	if got := resolve(host + "/shop/slow:1"); got[0] != "" || time.Since(begun) > 2*time.Second {
		t.Errorf("%v after %s", got, time.Since(begun))
	}
}
