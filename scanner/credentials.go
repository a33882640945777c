package scanner

import (
	"io"
	"os"
	"strings"

	ecr "github.com/awslabs/amazon-ecr-credential-helper/ecr-login"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/authn/github"
	"github.com/google/go-containerregistry/pkg/v1/google"
)

// DefaultKeychain finds credentials in the Docker configuration (DOCKER_CONFIG,
// its credential helpers and Podman's auth.json). Where that has none for a
// registry of a cloud, it asks the environment of the cloud: Google's
// application credentials, GITHUB_TOKEN for ghcr.io, AWS's usual chain for
// private ECR, and AZURE_CLIENT_ID with AZURE_CLIENT_SECRET for Azure.
func DefaultKeychain() authn.Keychain {
	return authn.NewMultiKeychain(authn.DefaultKeychain, google.Keychain, github.Keychain,
		hosts{isECR, authn.NewKeychainFromHelper(ecr.NewECRHelper(ecr.WithLogger(io.Discard)))},
		hosts{isACR, azureKeychain{}})
}

// hosts asks a keychain about some registries only, so that no other scan
// waits for a cloud's metadata server.
type hosts struct {
	match    func(string) bool
	keychain authn.Keychain
}

func (h hosts) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if !h.match(r.RegistryStr()) {
		return authn.Anonymous, nil
	}
	return h.keychain.Resolve(r)
}

func isECR(host string) bool {
	return strings.Contains(host, ".dkr.ecr") && (strings.HasSuffix(host, ".amazonaws.com") || strings.HasSuffix(host, ".amazonaws.com.cn"))
}

func isACR(host string) bool {
	return strings.HasSuffix(host, ".azurecr.io") || strings.HasSuffix(host, ".azurecr.cn") || strings.HasSuffix(host, ".azurecr.us")
}

// azureKeychain gives a service principal, which Azure's registries take as a
// user with a password.
type azureKeychain struct{}

func (azureKeychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	id, secret := os.Getenv("AZURE_CLIENT_ID"), os.Getenv("AZURE_CLIENT_SECRET")
	if id == "" || secret == "" {
		return authn.Anonymous, nil
	}
	return &authn.Basic{Username: id, Password: secret}, nil
}
