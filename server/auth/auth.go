// Package auth says who sends a request, and what he may do: bearer tokens (a
// file in Kubernetes' form, tokens made in the store, OIDC, TokenReview),
// client certificates, sessions of browsers, and a table of routes with the
// roles that they need. What is not allowed is refused.
//
// The building blocks are those of k8s.io/apiserver. They log to klog, which
// the program may send to its own logger with klog.SetSlogLogger.
package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Config says who gets in. Its zero value refuses everybody.
type Config struct {
	// Routes are what each route needs.
	Routes Routes
	// Bindings give roles to users and groups; the first that fits decides.
	// Tokens of the store bring their own role.
	Bindings []Binding

	// TokenFile holds static tokens in Kubernetes' form, CSV lines of
	// token,user,uid,"group1,group2". It is read again when it changes.
	TokenFile string
	// Tokens finds the tokens that were made with [NewToken].
	Tokens TokenStore
	// OIDC trusts the ID tokens of an issuer.
	OIDC *OIDC
	// Login lets people sign in at the issuer of OIDC; it needs Sessions.
	Login *Login
	// ClientCAFile is a bundle of PEM certificates that sign client
	// certificates: CN is the user, each O a group. It is read again when it
	// changes. The listener must use [Auth.TLSConfig].
	ClientCAFile string
	// TokenReview asks a Kubernetes API server about tokens that are not
	// known otherwise.
	TokenReview *TokenReview

	// Anonymous is the role of requests without credential, for trials; ""
	// is none. It needs a Listener on loopback, and requests that come
	// straight from there to a loopback name: neither through a proxy nor from
	// a page that rebinds its name.
	Anonymous Role
	// Listener is where the server listens.
	Listener net.Addr

	// Sessions switches cookies on for browsers.
	Sessions *Sessions
	// TrustedOrigins may send unsafe requests from a browser besides the
	// server's own origin, such as "https://console.example.com".
	TrustedOrigins []string
	// TrustedProxies are those whose X-Forwarded-For is believed where the
	// address of a client is wanted.
	TrustedProxies []netip.Prefix
	// FailuresPerMinute is how many wrong bearer tokens one address (of IPv6
	// its /64) may send: so many at once, and so many each minute from then
	// on. 0 is 20. Tokens that were good within the last ten minutes pass all
	// the same, so that one bad client does not shut out its neighbours.
	FailuresPerMinute int

	// Refused, where given, may answer a refusal instead of problem details, as pages do
	// that send people to sign in. It says whether it did.
	Refused func(w http.ResponseWriter, r *http.Request, err *Error) bool
	// Observe, where given, is called once for each request with the
	// authenticator (token-file, store, oidc, token-review, certificate, session,
	// anonymous, bearer where it is not known, none) and the result (ok, missing,
	// wrong, expired, revoked, ended, unavailable, limited, forbidden,
	// cross-origin).
	Observe func(authenticator, result string)
	// Log, where given, gets who was refused and why, never a credential.
	Log *slog.Logger
	// Now is the clock; nil is time.Now. OIDC goes by the system's clock.
	Now func() time.Time
}

// Identity is who sends a request.
type Identity struct {
	Name   string
	Groups []string
	Role   Role
	Scope  Scope
	// Via is the authenticator that vouches for it, as in [Config.Observe].
	// In a session it is the one that opened it.
	Via string
	// Legacy is a scanner from before nodes and webhooks had roles of their own. For one release
	// it has their routes too, with a warning.
	Legacy bool
	// Token is the id of the store's token that it came with; 0 is none.
	Token int64
}

const (
	viaFile        = "token-file"
	viaStore       = "store"
	viaOIDC        = "oidc"
	viaReview      = "token-review"
	viaCertificate = "certificate"
	viaSession     = "session"
	viaAnonymous   = "anonymous"
	viaBearer      = "bearer"
	viaNone        = "none"
)

type contextKey struct{}

// NewContext returns a context that carries an identity, as [Auth.Handler]
// makes it.
func NewContext(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, contextKey{}, id)
}

// FromContext returns the identity of a request; there is none on public
// routes.
func FromContext(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(contextKey{}).(Identity)
	return id, ok
}

type addressKey struct{}

// AddressOf is the address of the client of a request, which [Auth.Handler] found; "" where there is none.
func AddressOf(ctx context.Context) string {
	if address, ok := ctx.Value(addressKey{}).(netip.Addr); ok && address.IsValid() {
		return address.String()
	}
	return ""
}

// Auth authenticates and authorizes requests. It may be used concurrently.
type Auth struct {
	config      Config
	table       table
	file        *file[map[TokenHash]*user.DefaultInfo]
	store       *storeTokens
	oidc        *oidcTokens
	review      *reviewTokens
	clientCA    *file[*x509.CertPool]
	certificate authenticator.Request
	sessions    *sessions
	login       *login
	limiter     *limiter
	warned      *lru.LRUExpireCache // names of Legacy identities
	crossOrigin *http.CrossOriginProtection
}

// New reads the files of a configuration. The context bounds the life of what
// runs behind it: the discovery of an OIDC issuer, which need not be reachable
// yet.
func New(ctx context.Context, c Config) (*Auth, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Observe == nil {
		c.Observe = func(string, string) {}
	}
	a := &Auth{config: c, limiter: newLimiter(c.FailuresPerMinute, c.Now), warned: lru.NewLRUExpireCacheWithClock(maxWarned, clock(c.Now)), crossOrigin: http.NewCrossOriginProtection()}
	var err error
	if a.table, err = newTable(c.Routes); err != nil {
		return nil, err
	}
	for i, b := range c.Bindings {
		if _, err := ParseRole(string(b.Role)); err != nil {
			return nil, fmt.Errorf("binding %d: %w", i+1, err)
		}
	}
	for _, origin := range c.TrustedOrigins {
		if err := a.crossOrigin.AddTrustedOrigin(origin); err != nil {
			return nil, fmt.Errorf("trusted origin: %w", err)
		}
	}
	if c.Anonymous != "" {
		if _, err := ParseRole(string(c.Anonymous)); err != nil {
			return nil, fmt.Errorf("anonymous access: %w", err)
		}
		if !isLoopback(c.Listener) {
			return nil, errors.New("anonymous access is for trials on loopback: listen on 127.0.0.1 or [::1], or configure credentials instead")
		}
	}
	if c.TokenFile != "" {
		if a.file, err = newFile(c.TokenFile, parseTokens, c.Log); err != nil {
			return nil, fmt.Errorf("token file: %w", err)
		}
	}
	if c.Tokens != nil {
		a.store = newStoreTokens(c.Tokens, c.Now)
	}
	if c.OIDC != nil {
		if a.oidc, err = newOIDC(ctx, *c.OIDC); err != nil {
			return nil, fmt.Errorf("OIDC: %w", err)
		}
	}
	if c.TokenReview != nil {
		if a.review, err = newReview(*c.TokenReview); err != nil {
			return nil, fmt.Errorf("TokenReview: %w", err)
		}
	}
	if c.ClientCAFile != "" {
		if a.clientCA, err = newFile(c.ClientCAFile, parseCertificates, c.Log); err != nil {
			return nil, fmt.Errorf("client certificates: %w", err)
		}
		a.certificate = newCertificate(a.clientCA, c.Now)
	}
	if c.Sessions != nil {
		if a.sessions, err = newSessions(*c.Sessions, c.Now); err != nil {
			return nil, fmt.Errorf("sessions: %w", err)
		}
	}
	if c.Login != nil && a.sessions != nil {
		if a.login, err = newLogin(*c.Login, c.OIDC); err != nil {
			return nil, fmt.Errorf("signing in by OIDC: %w", err)
		}
	}
	return a, nil
}

// TLSConfig returns a listener's configuration that asks for client
// certificates, if they are configured; base holds the server's own. They are
// judged at each request and not by the handshake, so that a change of the
// bundle counts for connections that are open, and a wrong certificate gets an
// answer.
func (a *Auth) TLSConfig(base *tls.Config) *tls.Config {
	c := base.Clone()
	if a.clientCA == nil {
		return c
	}
	c.ClientAuth = tls.RequestClientCert
	if c.NextProtos == nil {
		// What http.Server adds later does not reach the copies below.
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	inner := c.Clone()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		current := inner.Clone()
		current.ClientCAs = a.clientCA.get()
		return current, nil
	}
	return c
}

// Handler lets pass to next what the table of routes allows, with the
// [Identity] in the context, and answers the rest with problem details: 401
// without or with a wrong credential, even where anonymous access is on, 403
// with a good one that does not suffice or from another site's page, 404 with a
// good one for what is not in the table of routes, 405 for a method that is not, 429 after too many wrong
// ones, 503 when a credential cannot be checked now. The first
// credential of these decides: the Authorization header, which is taken off
// the request; the session; the client certificate. What rewrites paths goes
// around the Handler, so that next sees the path that was judged.
func (a *Auth) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, via, err := a.admit(w, r)
		if err != nil {
			a.observe(r, via, id, err)
			if id.Role != "" && (err.Status == http.StatusForbidden || err.Status == http.StatusNotFound || err.Status == http.StatusMethodNotAllowed) { // who was refused is known
				r = r.WithContext(NewContext(r.Context(), id))
			}
			if a.config.Refused == nil || !a.config.Refused(w, r, err) {
				err.Write(w)
			}
			return
		}
		a.config.Observe(via, "ok")
		if id.Role != "" {
			r = r.WithContext(NewContext(context.WithValue(r.Context(), addressKey{}, clientAddress(r, a.config.TrustedProxies)), id))
		}
		if id.Legacy {
			a.warn(w, id)
		}
		next.ServeHTTP(w, r)
	})
}

// LegacyWarning is what those are told who have a [Identity] from before nodes and webhooks had
// roles of their own.
const LegacyWarning = "the role scanner uploads alone from the next release on: give nodes the role node, webhooks the role webhook, and each program its own token, with a scope or all"

const (
	maxWarned   = 4096
	warnedAgain = time.Hour
)

// warn tells the client each time, and the log now and then.
func (a *Auth) warn(w http.ResponseWriter, id Identity) {
	w.Header().Set("Warning", `299 - "`+LegacyWarning+`"`)
	if _, told := a.warned.Get(id.Name); !told {
		a.warned.Add(id.Name, nil, warnedAgain)
		a.config.Log.Warn(LegacyWarning, "user", id.Name, "scope", id.Scope.String(), "authenticator", id.Via)
	}
}

// Inner is a Handler for requests that this process makes itself, in the name of the
// [Identity] of their context: it asks for the role and scope that the table of routes wants,
// and for no credential.
func (a *Auth) Inner(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := FromContext(r.Context())
		if err := a.allows(a.table.of(r), id); err != nil {
			err.Write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// admit decides about a request. Public routes get no identity.
func (a *Auth) admit(w http.ResponseWriter, r *http.Request) (id Identity, via string, err *Error) {
	route := a.table.of(r)
	public := slices.Contains(route.Roles, Public)
	header := r.Header.Values("Authorization")
	r.Header.Del("Authorization") // nothing behind shall be able to log it
	via = viaNone
	if !public {
		if id, via, err = a.authenticate(w, r, header); err != nil {
			return id, via, err
		}
	}
	// All but the Authorization header comes with a browser's request by
	// itself, be it the cookie, the certificate or the place on loopback.
	if (public || len(header) == 0) && a.crossOrigin.Check(r) != nil {
		return id, via, forbidden("cross-origin", "the request comes from a page of another site; if that site is yours, add it to the trusted origins")
	}
	return id, via, a.allows(route, id)
}

// allows says whether an identity has one of the roles that a route needs, and a scope that it
// can hold to.
func (a *Auth) allows(route Route, id Identity) *Error {
	least := route.Roles
	switch {
	case slices.Contains(least, Public):
		return nil
	case slices.ContainsFunc(least, id.has) && (id.Scope.All() || route.Scopes != ScopesRefused):
		return nil
	case slices.ContainsFunc(least, id.has):
		return forbidden("forbidden", fmt.Sprintf("this is about everything; the scope of %.200q is %s", id.Name, id.Scope))
	case id.Role == "":
		return forbidden("forbidden", fmt.Sprintf("%.200q has no role here; an administrator can bind one to this user or to a group", id.Name))
	case len(least) == 0 && route.methods != "":
		return &Error{Status: http.StatusMethodNotAllowed, Allow: route.methods, Detail: "this address takes " + route.methods, result: "forbidden"}
	case len(least) == 0:
		return &Error{Status: http.StatusNotFound, Detail: "there is nothing at this address, or nothing that anyone may use", result: "forbidden"}
	default:
		return forbidden("forbidden", fmt.Sprintf("%.200q has the role %s; this needs %s", id.Name, id.Role, roles(least)))
	}
}

func roles(least []Role) string {
	var names []string
	for _, r := range least {
		names = append(names, string(r))
	}
	return strings.Join(names, " or ")
}

func (a *Auth) authenticate(w http.ResponseWriter, r *http.Request, header []string) (id Identity, via string, err *Error) {
	if len(header) > 0 {
		token, ok := bearer(header)
		if !ok {
			return id, viaBearer, unauthorized("wrong", "the Authorization header must be: Bearer TOKEN")
		}
		return a.limited(r, token)
	}
	if a.sessions != nil {
		if cookie, cookieErr := r.Cookie(cookieName); cookieErr == nil {
			id, err = a.session(w, r, cookie.Value)
			return id, viaSession, err
		}
	}
	if a.certificate != nil && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		response, ok, certErr := a.certificate.AuthenticateRequest(r)
		if !ok {
			err = unauthorized("wrong", "the client certificate is not one that is trusted here, or has ended")
			err.cause = certErr
			return id, viaCertificate, err
		}
		return a.identity(response.User.GetName(), response.User.GetGroups(), viaCertificate), viaCertificate, nil
	}
	if a.config.Anonymous != "" && isDirect(r) {
		return Identity{Name: viaAnonymous, Role: a.config.Anonymous, Via: viaAnonymous}, viaAnonymous, nil
	}
	return id, viaNone, unauthorized("missing", "this needs a credential: send the header Authorization: Bearer TOKEN")
}

// limited is byToken for those who did not fail too often.
func (a *Auth) limited(r *http.Request, token string) (id Identity, via string, err *Error) {
	address, hash := siteOf(clientAddress(r, a.config.TrustedProxies)), Hash(token)
	if wait := a.limiter.wait(address, hash); wait > 0 {
		err = &Error{Status: http.StatusTooManyRequests, Detail: "too many wrong credentials came from this address", RetryAfter: wait, result: "limited"}
		return id, viaBearer, err
	}
	id, via, err = a.byToken(r.Context(), token, hash)
	switch {
	case err == nil:
		a.limiter.succeeded(hash)
	case err.Status == http.StatusUnauthorized:
		a.limiter.failed(address)
	}
	if err != nil && err.cause != nil {
		err.cause = errors.New(strings.ReplaceAll(err.cause.Error(), token, "[token]"))
	}
	return id, via, err
}

// byToken asks who may know a token. Those of the store are shown to nobody
// else, and so are those that name the OIDC issuer.
func (a *Auth) byToken(ctx context.Context, token string, hash TokenHash) (id Identity, via string, err *Error) {
	if a.file != nil {
		if u := a.file.get()[hash]; u != nil {
			return a.identity(u.Name, u.Groups, viaFile), viaFile, nil
		}
	}
	if strings.HasPrefix(token, TokenPrefix) {
		if a.store == nil || !IsToken(token) {
			return id, viaStore, wrongToken(nil)
		}
		id, err = a.store.lookup(ctx, hash)
		return id, viaStore, err
	}
	for _, t := range []struct {
		via string
		tokenChecker
	}{{viaOIDC, a.oidc}, {viaReview, a.review}} {
		u, err := t.check(ctx, token)
		if err != nil {
			return id, t.via, err
		}
		if u != nil {
			return a.identity(u.GetName(), u.GetGroups(), t.via), t.via, nil
		}
	}
	return id, viaBearer, wrongToken(nil)
}

// identity is a user with the role that the bindings give.
func (a *Auth) identity(name string, groups []string, via string) Identity {
	b := bind(a.config.Bindings, name, groups)
	return Identity{Name: name, Groups: groups, Role: b.Role, Scope: b.Scope, Legacy: b.Legacy, Via: via}
}

// maxToken bounds a bearer token, in bytes.
const maxToken = 16 << 10

// bearer takes the token out of the Authorization header (RFC 6750).
func bearer(header []string) (string, bool) {
	if len(header) != 1 {
		return "", false
	}
	scheme, token, _ := strings.Cut(header[0], " ")
	token = strings.Trim(token, " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken {
		return "", false
	}
	for _, c := range []byte(token) {
		if c <= ' ' || c > '~' {
			return "", false
		}
	}
	return token, true
}

func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// isDirect says whether a request comes from loopback, for loopback, over no
// proxy that says so.
func isDirect(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if !isLoopback(local) || err != nil || !remote.Addr().Unmap().IsLoopback() {
		return false
	}
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"} {
		if r.Header.Get(h) != "" {
			return false
		}
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}
