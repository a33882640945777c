package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"net/url"
	"os"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	requestx509 "k8s.io/apiserver/pkg/authentication/request/x509"
	tokencache "k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/webhook"
	authenticationv1 "k8s.io/client-go/kubernetes/typed/authentication/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// tokenChecker says whose token it is: nil when it is for others to say.
type tokenChecker interface {
	check(ctx context.Context, token string) (user.Info, *Error)
}

// storeTokens knows the tokens that the server made. Hashes that the store does
// not know are remembered for a while, the latest of them.
type storeTokens struct {
	store   TokenStore
	unknown *lru.LRUExpireCache // TokenHash → nothing
	now     func() time.Time
}

const (
	maxUnknown = 16 << 10
	unknownFor = time.Minute
)

func newStoreTokens(store TokenStore, now func() time.Time) *storeTokens {
	return &storeTokens{store: store, unknown: lru.NewLRUExpireCacheWithClock(maxUnknown, clock(now)), now: now}
}

// lookup finds by hash, which tells an observer of times nothing about tokens.
func (s *storeTokens) lookup(ctx context.Context, hash TokenHash) (Identity, *Error) {
	if _, ok := s.unknown.Get(hash); ok {
		return Identity{}, wrongToken(nil)
	}
	t, found, err := s.store.LookupToken(ctx, hash)
	switch {
	case err != nil:
		return Identity{}, unavailable("the store does not answer", err)
	case !found:
		s.unknown.Add(hash, nil, unknownFor)
		return Identity{}, wrongToken(nil)
	case t.Revoked:
		return Identity{}, unauthorized("revoked", "the token was revoked")
	case !t.Expires.IsZero() && !s.now().Before(t.Expires):
		return Identity{}, unauthorized("expired", "the token expired at "+t.Expires.UTC().Format(time.RFC3339))
	}
	return Identity{Name: t.Name, Role: t.Role, Scope: t.Scope, Legacy: t.Legacy, Via: viaStore, Token: t.ID}, nil
}

// OIDC trusts the ID tokens that an issuer signs for a client.
type OIDC struct {
	// Issuer is an https URL, exactly as the tokens name it.
	Issuer   string
	ClientID string
	// CAFile holds the PEM certificates that the issuer's chain ends in; "" is
	// the system's. It is read once.
	CAFile string
	// UsernameClaim is "sub" by default; an "email" counts only when the
	// issuer says that it is verified.
	UsernameClaim string
	// GroupsClaim is "groups" by default.
	GroupsClaim string
	// Prefix goes before user names and groups, so that they are not taken for
	// those of other authenticators: "oidc:" by default, "-" for none.
	Prefix string
	// RequiredClaims must be in a token with these values.
	RequiredClaims map[string]string
}

type oidcTokens struct {
	oidc.AuthenticatorTokenWithHealthCheck
}

// caContent is a bundle of certificates as the OIDC authenticator takes it.
type caContent []byte

func (c caContent) CurrentCABundleContent() []byte { return c }

func newOIDC(ctx context.Context, c OIDC) (*oidcTokens, error) {
	prefix := c.Prefix
	switch prefix {
	case "":
		prefix = "oidc:"
	case "-":
		prefix = ""
	}
	claim := func(name, usual string) apiserver.PrefixedClaimOrExpression {
		if name == "" {
			name = usual
		}
		return apiserver.PrefixedClaimOrExpression{Claim: name, Prefix: &prefix}
	}
	options := oidc.Options{
		JWTAuthenticator: apiserver.JWTAuthenticator{
			Issuer:        apiserver.Issuer{URL: c.Issuer, Audiences: []string{c.ClientID}},
			ClaimMappings: apiserver.ClaimMappings{Username: claim(c.UsernameClaim, "sub"), Groups: claim(c.GroupsClaim, "groups")},
		},
		SupportedSigningAlgs: oidc.AllValidSigningAlgorithms(),
	}
	for name, value := range c.RequiredClaims {
		options.JWTAuthenticator.ClaimValidationRules = append(options.JWTAuthenticator.ClaimValidationRules,
			apiserver.ClaimValidationRule{Claim: name, RequiredValue: value})
	}
	if c.CAFile != "" {
		text, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, err
		}
		options.JWTAuthenticator.Issuer.CertificateAuthority = string(text)
		options.CAContentProvider = caContent(text)
	}
	a, err := oidc.New(ctx, options)
	if err != nil {
		return nil, err
	}
	return &oidcTokens{a}, nil
}

func (o *oidcTokens) check(ctx context.Context, token string) (user.Info, *Error) {
	if o == nil {
		return nil, nil
	}
	response, ok, err := o.AuthenticateToken(ctx, token)
	if err != nil {
		if health := o.HealthCheck(); health != nil {
			return nil, unavailable("the OIDC issuer was not reached yet", health)
		}
		return nil, wrongToken(err)
	}
	if !ok {
		return nil, nil
	}
	return response.User, nil
}

// TokenReview asks a Kubernetes API server whose a token is. What it affirms
// holds for ten seconds.
type TokenReview struct {
	// Kubeconfig names the API server and our own credential; "" is that of
	// the pod.
	Kubeconfig string
	// Audiences are those of which a token must be for one; none takes tokens
	// that are for the API server itself.
	Audiences []string
}

type reviewTokens struct {
	token     authenticator.Token
	audiences authenticator.Audiences
}

func newReview(c TokenReview) (*reviewTokens, error) {
	config, err := rest.InClusterConfig()
	if c.Kubeconfig != "" {
		config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	}
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 200, 400 // as apiserver's own delegation
	client, err := authenticationv1.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	backoff := wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 3}
	metrics := webhook.AuthenticatorMetrics{
		RecordRequestTotal:   func(context.Context, string) {},
		RecordRequestLatency: func(context.Context, string, float64) {},
	}
	reviewer, err := webhook.NewFromInterface(client, nil, backoff, 10*time.Second, metrics)
	if err != nil {
		return nil, err
	}
	// The cache has no bound but time, so it keeps only what is affirmed.
	return &reviewTokens{tokencache.New(reviewer, false, 10*time.Second, 0), c.Audiences}, nil
}

func (v *reviewTokens) check(ctx context.Context, token string) (user.Info, *Error) {
	if v == nil {
		return nil, nil
	}
	if len(v.audiences) > 0 {
		ctx = authenticator.WithAudiences(ctx, v.audiences)
	}
	response, ok, err := v.token.AuthenticateToken(ctx, token)
	switch {
	case ok:
		return response.User, nil
	case isOutage(err):
		return nil, unavailable("the Kubernetes API server does not answer", err)
	default:
		return nil, wrongToken(err)
	}
}

// isOutage tells an API server that did not judge from one that says no.
func isOutage(err error) bool {
	var status apierrors.APIStatus
	var transport *url.Error
	return errors.As(err, &status) || errors.As(err, &transport) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func newCertificate(pool *file[*x509.CertPool], now func() time.Time) authenticator.Request {
	return requestx509.NewDynamic(func() (x509.VerifyOptions, bool) {
		options := requestx509.DefaultVerifyOptions()
		options.Roots, options.CurrentTime = pool.get(), now()
		return options, options.Roots != nil
	}, requestx509.CommonNameUserConversion)
}
