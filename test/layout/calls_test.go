package layout_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// calls are what reaches another program or machine, by package; no names are all that it has.
var calls = map[string][]string{
	"net/http": {"Client", "DefaultClient", "Transport", "DefaultTransport", "Get", "Head", "Post", "PostForm"},
	"net": {"Dial", "DialTimeout", "DialIP", "DialTCP", "DialUDP", "DialUnix", "Dialer", "Resolver", "DefaultResolver", "LookupAddr", "LookupCNAME", "LookupHost",
		"LookupIP", "LookupMX", "LookupNS", "LookupPort", "LookupSRV", "LookupTXT"},
	"crypto/tls":        {"Client", "Dial", "DialWithDialer", "Dialer"},
	"log/syslog":        nil,
	"net/rpc":           nil,
	"net/smtp":          nil,
	"os/exec":           {"Command", "CommandContext"},
	"os":                {"StartProcess"},
	"syscall":           {"Connect", "Exec", "ForkExec", "StartProcess"},
	"plugin":            nil,
	"net/http/httputil": {"ReverseProxy", "NewSingleHostReverseProxy"},

	"github.com/awslabs/amazon-ecr-credential-helper/ecr-login":       nil,
	"github.com/containerd/containerd/v2/client":                      {"New", "NewWithConn"},
	"github.com/go-git/go-git/v5":                                     {"Clone", "CloneContext", "NewRemote", "PlainClone", "PlainCloneContext"},
	"github.com/google/go-containerregistry/pkg/authn":                {"DefaultKeychain", "NewKeychainFromHelper"},
	"github.com/google/go-containerregistry/pkg/authn/github":         nil,
	"github.com/google/go-containerregistry/pkg/crane":                nil,
	"github.com/google/go-containerregistry/pkg/v1/daemon":            nil,
	"github.com/google/go-containerregistry/pkg/v1/google":            {"Keychain", "List", "Walk", "NewEnvAuthenticator", "NewGcloudAuthenticator"},
	"github.com/google/go-containerregistry/pkg/v1/remote":            {"CatalogPage", "Catalog", "DefaultTransport", "Delete", "Get", "Head", "Image", "Index", "Layer", "List", "ListWithContext", "NewPuller", "NewPusher", "Push", "Put", "Referrers", "Tag", "Write", "WriteIndex", "WriteLayer"},
	"github.com/google/go-containerregistry/pkg/v1/remote/transport":  {"New", "NewWithContext", "Ping", "Exchange"},
	"github.com/jackc/pgx/v5":                                         {"Connect", "ConnectConfig", "ConnectWithOptions"},
	"github.com/jackc/pgx/v5/pgxpool":                                 {"New", "NewWithConfig"},
	"github.com/moby/moby/client":                                     {"New", "NewClientWithOpts"},
	"github.com/sigstore/sigstore-go/pkg/tuf":                         nil,
	"github.com/theupdateframework/go-tuf/v2/metadata/updater":        nil,
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp": nil,
	"google.golang.org/grpc":                                          {"Dial", "DialContext", "NewClient"},
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory":        nil,
	"k8s.io/apiserver/pkg/server/options":                             nil,
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc":            nil,
	"k8s.io/apiserver/plugin/pkg/authenticator/token/webhook":         nil,
	"k8s.io/apiserver/plugin/pkg/authorizer/webhook":                  nil,
	"k8s.io/client-go/discovery":                                      {"NewDiscoveryClientForConfig"},
	"k8s.io/client-go/dynamic":                                        {"NewForConfig", "NewForConfigAndClient", "NewForConfigOrDie"},
	"k8s.io/client-go/kubernetes":                                     {"NewForConfig", "NewForConfigAndClient", "NewForConfigOrDie"},
	"k8s.io/client-go/rest":                                           {"HTTPClientFor", "RESTClientFor", "TransportFor", "UnversionedRESTClientFor"},
	"sigs.k8s.io/controller-runtime/pkg/client":                       nil,
}

var imported = regexp.MustCompile(`[a-z0-9_-]+/[a-z0-9_/-]+\.go`)

// Every call that leaves a program stands in docs/outgoing.md with its guard, and nothing
// else does.
func TestOutgoingCallsAreListed(t *testing.T) {
	tree := os.DirFS("../..")
	text, err := fs.ReadFile(tree, "docs/outgoing.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| ") {
			for _, file := range imported.FindAllString(line, -1) {
				listed[file] = true
			}
		}
	}
	found := map[string]bool{}
	err = fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (slices.Contains([]string{"test", "examples", "bin"}, name) || strings.HasPrefix(d.Name(), ".") && name != ".") {
			return fs.SkipDir
		}
		// Packages for tests end in test, such as storetest; none of them is linked, see TestServerLinksLittle.
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasSuffix(path.Base(path.Dir(name)), "test") && !strings.HasSuffix(name, "regotest.go") {
			return nil
		}
		data, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		if reaches(t, name, data) {
			found[name] = true
			if !listed[name] {
				t.Errorf("%s makes calls, and stands in no row of docs/outgoing.md", name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range listed {
		if !found[name] {
			t.Errorf("docs/outgoing.md has %s, which makes no calls", name)
		}
	}
	if len(found) < 10 {
		t.Errorf("calls were found in %d files", len(found))
	}
}

// reaches says whether a file has a call of [calls].
func reaches(t *testing.T, name string, data []byte) (found bool) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, data, 0)
	if err != nil {
		t.Fatal(err)
	}
	symbols := map[string][]string{} // by the name that the file has for the package
	for _, i := range file.Imports {
		from, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		names, ok := calls[from]
		if !ok {
			continue
		}
		if names == nil {
			return true
		}
		local := path.Base(from)
		if regexp.MustCompile(`^v\d+$`).MatchString(local) {
			local = strings.TrimPrefix(path.Base(path.Dir(from)), "go-")
		}
		if i.Name != nil {
			local = i.Name.Name
		}
		if local == "." || local == "_" {
			return true
		}
		symbols[local] = names
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Obj == nil && slices.Contains(symbols[x.Name], s.Sel.Name) {
				found = true
			}
		}
		return !found
	})
	return found
}

func TestCallsAreFound(t *testing.T) {
	for source, want := range map[string]bool{
		"import \"net/http\"\nvar c = http.Client{}":                              true,
		"import web \"net/http\"\nvar c = &web.Client{}":                          true,
		"import \"net/http\"\nfunc f() { _, _ = http.Get(``) }":                   true,
		"import \"net/http\"\nvar s = http.Server{}":                              false,
		"import \"net\"\nvar d net.Dialer":                                        true,
		"import \"net\"\nvar l, err = net.Listen(``, ``)":                         false,
		"import \"net/smtp\"\nvar _ = smtp.PlainAuth":                             true,
		"import . \"net/http\"\nvar c = Client{}":                                 true,
		"import \"github.com/go-git/go-git/v5\"\nvar r = git.NewRemote(nil, nil)": true,
		"import \"os/exec\"\nfunc f() { exec.Command(`git`) }":                    true,
		"type net struct{ Dial func() }\nfunc f() { var net net; net.Dial() }":    false,
	} {
		if got := reaches(t, "x.go", []byte("package x\n\n"+source+"\n")); got != want {
			t.Errorf("%s: %t", source, got)
		}
	}
}
