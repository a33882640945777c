package scanner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/anchore/syft/syft/sbom"
	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/outgoing"
	"github.com/assay-dev/assay/scanner/attestation"
	"github.com/assay-dev/assay/scanner/pace"
)

// Matcher finds the vulnerabilities of an SBOM, and counts the packages of which nothing
// could be looked up. It must be safe for concurrent use when [Scanner.ScanAll] runs
// several scans side by side.
type Matcher interface {
	Match(ctx context.Context, s sbom.SBOM) ([]api.Vulnerability, []api.Unplaced, error)
}

// Defaults of the bounds in [Config].
const (
	DefaultMaxImageBytes = 3 << 30
	DefaultMaxFiles      = 1_000_000
	DefaultMaxLayers     = 500
	DefaultMaxSBOMBytes  = 512 << 20
	DefaultMaxCacheBytes = 10 << 30
	DefaultTimeout       = 15 * time.Minute
)

// Config configures a [Scanner]. Its zero value scans references from local
// daemons and registries and makes SBOMs, but matches nothing.
type Config struct {
	// Matcher finds vulnerabilities. Without one every outcome has its SBOM
	// and [ErrNotMatched].
	Matcher Matcher
	// Database names the database that Matcher reads; it is copied into each scan.
	Database *api.ScanDatabase

	// Platform is the one to scan of an index, such as "linux/arm64" or
	// "linux/arm/v7". When set, a single-platform image of another platform is
	// refused. Absent: an index gives linux/amd64, and a single image is taken as it is.
	Platform string
	// As is the reference that names the image, whatever it was read from. It
	// is for one input: [Scanner.ScanAll] refuses it beside several.
	As string

	// Distro is the distribution that the packages are of, such as "debian:12", whatever the
	// image or SBOM says of itself. Absent: that which it says.
	Distro string

	// Keychain finds the credentials of a registry. Absent: [DefaultKeychain].
	Keychain authn.Keychain
	// InsecureHTTP talks plain HTTP to registries.
	InsecureHTTP bool
	// Realms are the hosts that a registry may have its credentials sent to, beside itself.
	Realms outgoing.Realms
	// Networks are those that are dialled where Transport is absent.
	Networks outgoing.Networks
	// Transport carries requests to registries. Absent: that of Networks,
	// which honours HTTPS_PROXY and SSL_CERT_FILE. Unless it is a
	// [pace.Transport] already, it is put into one, which tries again.
	Transport http.RoundTripper
	// UserAgent is sent to registries. Absent: "assay".
	UserAgent string

	// Attestations says whose SBOMs, found beside an image in its registry, are taken in the
	// place of one made here. Absent: nobody's, and none are looked for.
	Attestations *attestation.Verifier

	// NoDaemons makes a reference without scheme go straight to its registry.
	NoDaemons bool
	// DockerHost is the address of the Docker daemon. Absent: as the Docker
	// CLI reads DOCKER_HOST and its companions.
	DockerHost string
	// ContainerdAddress is containerd's socket. Absent: CONTAINERD_ADDRESS,
	// else /run/containerd/containerd.sock.
	ContainerdAddress string
	// ContainerdNamespace is where images are looked up. Absent:
	// CONTAINERD_NAMESPACE, else "default" and then "k8s.io".
	ContainerdNamespace string
	// ContainerdRoot is where containerd's root (usually /var/lib/containerd) can be
	// read. It gives the unpacked layers where the content store has discarded the
	// packed ones. Absent: such images cannot be scanned.
	ContainerdRoot string

	// Stdin is read for the input "sbom:-". Absent: os.Stdin.
	Stdin io.Reader
	// TempDir holds one directory per running scan. Absent: os.TempDir().
	TempDir string
	// CacheDir keeps layer blobs pulled from registries. Absent: no cache.
	CacheDir string
	// MaxCacheBytes bounds CacheDir; the blobs used longest ago go first.
	// Absent: 10 GiB.
	MaxCacheBytes int64

	// MaxImageBytes bounds the sum of an image's layers, unpacked, and of what is unpacked at a
	// time of archives in them, and with it the disk that a scan takes, however small the archive
	// is. The unpacked copy of an archive that is compressed as a whole counts apart. Absent: 3 GiB.
	MaxImageBytes int64
	// MaxFiles bounds the entries of all layers together, or the files of a
	// directory. Absent: one million.
	MaxFiles int64
	// MaxLayers bounds the layers of an image. Absent: 500.
	MaxLayers int
	// MaxSBOMBytes bounds an SBOM that is read. Absent: 512 MiB.
	MaxSBOMBytes int64
	// Timeout bounds one scan from the reference to the matches. Absent: 15 minutes.
	Timeout time.Duration

	// Now is the clock. Absent: time.Now.
	Now func() time.Time
	// Log takes what is worth knowing and no error. Absent: nothing is logged.
	Log *slog.Logger
}

// withDefaults fills in what is absent and refuses what cannot work.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.Platform != "" {
		p, err := parsePlatform(c.Platform)
		if err != nil {
			errs = append(errs, err)
		}
		c.Platform = p
	}
	if c.As != "" {
		if _, err := api.ParseReference(c.As); err != nil {
			errs = append(errs, fmt.Errorf("naming the image: %w: %w", ErrInput, err))
		}
	}
	if c.Distro != "" {
		if _, err := parseDistro(c.Distro); err != nil {
			errs = append(errs, err)
		}
	}
	for what, n := range map[string]int64{
		"MaxImageBytes": c.MaxImageBytes, "MaxFiles": c.MaxFiles, "MaxLayers": int64(c.MaxLayers),
		"MaxSBOMBytes": c.MaxSBOMBytes, "MaxCacheBytes": c.MaxCacheBytes, "Timeout": int64(c.Timeout),
	} {
		if n < 0 {
			errs = append(errs, fmt.Errorf("%w: %s is negative", ErrInput, what))
		}
	}
	setDefault(&c.MaxImageBytes, DefaultMaxImageBytes)
	setDefault(&c.MaxFiles, DefaultMaxFiles)
	setDefault(&c.MaxLayers, DefaultMaxLayers)
	setDefault(&c.MaxSBOMBytes, DefaultMaxSBOMBytes)
	setDefault(&c.MaxCacheBytes, DefaultMaxCacheBytes)
	setDefault(&c.Timeout, DefaultTimeout)
	setDefault(&c.UserAgent, "assay")
	if c.Keychain == nil {
		c.Keychain = DefaultKeychain()
	}
	if c.Transport == nil {
		c.Transport = c.Networks.Transport()
	}
	if _, ok := c.Transport.(*pace.Transport); !ok {
		c.Transport = pace.New(pace.Config{Base: c.Transport})
	}
	if c.Stdin == nil {
		c.Stdin = os.Stdin
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
