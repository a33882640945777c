package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/assay-dev/assay/outgoing"
)

// Login lets people sign in at the OIDC issuer: the authorization code flow of OpenID Connect
// Core 1.0 with PKCE (RFC 7636). It ends in [Auth.SignIn] with the ID token, which is verified
// there as one in a header is.
type Login struct {
	// ClientSecret is "" for a public client.
	ClientSecret string
	// RedirectURL is where the issuer sends browsers back to: the server's own address, as
	// browsers see it, with the path /signin/callback.
	RedirectURL string
	// Scopes are asked for besides openid; nil is profile, email and groups.
	Scopes []string
}

// loginCookie holds what a login began with, for as long as a user takes at the issuer.
const loginCookie = "__Host-assay-login"

const loginTime = 10 * time.Minute

// started is what a login began with.
type started struct {
	State, Nonce, Verifier, Next string
	Until                        time.Time
}

// login knows the issuer once it answered.
type login struct {
	Login
	oidc   OIDC
	client *http.Client

	mu       sync.Mutex
	endpoint oauth2.Endpoint
}

func newLogin(l Login, o *OIDC) (*login, error) {
	if o == nil {
		return nil, errors.New("it needs an issuer")
	}
	if !strings.HasPrefix(l.RedirectURL, "https://") && !strings.HasPrefix(l.RedirectURL, "http://localhost") && !strings.HasPrefix(l.RedirectURL, "http://127.0.0.1") {
		return nil, fmt.Errorf("the address that browsers come back to is %q: it must begin with https://", l.RedirectURL)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if o.CAFile != "" {
		text, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s has no certificate in PEM", o.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	if l.Scopes == nil {
		l.Scopes = []string{"profile", "email", "groups"}
	}
	return &login{Login: l, oidc: *o, client: &http.Client{
		Transport: transport, Timeout: 15 * time.Second, CheckRedirect: outgoing.NoRedirects, // the client's secret would go along
	}}, nil
}

// discovery is the part of the issuer's metadata that is needed (OpenID Connect Discovery 1.0).
type discovery struct {
	Issuer        string `json:"issuer"`
	Authorization string `json:"authorization_endpoint"`
	Token         string `json:"token_endpoint"`
}

func (l *login) config(ctx context.Context) (*oauth2.Config, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.endpoint.AuthURL == "" {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(l.oidc.Issuer, "/")+"/.well-known/openid-configuration", nil)
		if err != nil {
			return nil, err
		}
		answer, err := l.client.Do(r)
		if err != nil {
			return nil, err
		}
		defer answer.Body.Close()
		var d discovery
		if answer.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("the issuer answers %s", answer.Status)
		}
		if err := json.NewDecoder(io.LimitReader(answer.Body, 1<<20)).Decode(&d); err != nil {
			return nil, fmt.Errorf("reading the issuer's metadata: %w", err)
		}
		if d.Issuer != l.oidc.Issuer || !strings.HasPrefix(d.Authorization, "https://") || !strings.HasPrefix(d.Token, "https://") {
			return nil, fmt.Errorf("the metadata of %s is that of %q", l.oidc.Issuer, d.Issuer)
		}
		l.endpoint = oauth2.Endpoint{AuthURL: d.Authorization, TokenURL: d.Token}
	}
	return &oauth2.Config{ClientID: l.oidc.ClientID, ClientSecret: l.ClientSecret, Endpoint: l.endpoint, RedirectURL: l.RedirectURL, Scopes: append([]string{"openid"}, l.Scopes...)}, nil
}

// HasLogin says whether people can sign in at an issuer.
func (a *Auth) HasLogin() bool { return a.login != nil }

// BeginLogin sends a browser to the issuer; next is where it goes afterwards.
func (a *Auth) BeginLogin(w http.ResponseWriter, r *http.Request, next string) error {
	if a.login == nil {
		return forbidden("forbidden", "no OIDC issuer is configured here")
	}
	c, err := a.login.config(r.Context())
	if err != nil {
		return unavailable("the OIDC issuer does not answer", err)
	}
	s := started{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Next: next, Until: a.config.Now().Add(loginTime)}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	payload := encoding.EncodeToString(text)
	setLogin(w, payload+"."+encoding.EncodeToString(a.sessions.sealLogin(payload)), int(loginTime/time.Second))
	http.Redirect(w, r, c.AuthCodeURL(s.State, oauth2.S256ChallengeOption(s.Verifier), oauth2.SetAuthURLParam("nonce", s.Nonce)), http.StatusSeeOther)
	return nil
}

// FinishLogin opens a session for who comes back from the issuer, and gives where the login
// was to lead.
func (a *Auth) FinishLogin(w http.ResponseWriter, r *http.Request) (next string, err error) {
	if a.login == nil {
		return "", forbidden("forbidden", "no OIDC issuer is configured here")
	}
	setLogin(w, "", -1)
	again := func(text string) error { return unauthorized("wrong", text+": sign in again") }
	cookie, err := r.Cookie(loginCookie)
	if err != nil {
		return "", again("the login did not begin here, or took too long")
	}
	s, ok := a.sessions.openLogin(cookie.Value)
	q := r.URL.Query()
	switch {
	case !ok || !a.config.Now().Before(s.Until) || subtle.ConstantTimeCompare([]byte(s.State), []byte(q.Get("state"))) != 1:
		return "", again("the login did not begin here, or took too long")
	case q.Get("error") != "":
		return "", again(fmt.Sprintf("the issuer refused: %.200q", q.Get("error")+" "+q.Get("error_description")))
	}
	c, err := a.login.config(r.Context())
	if err != nil {
		return "", unavailable("the OIDC issuer does not answer", err)
	}
	token, err := c.Exchange(context.WithValue(r.Context(), oauth2.HTTPClient, a.login.client), q.Get("code"), oauth2.VerifierOption(s.Verifier))
	if err != nil {
		e := unauthorized("wrong", "the issuer did not take the code back: sign in again")
		e.cause = err
		a.observe(r, viaOIDC, Identity{}, e)
		return "", e
	}
	id, _ := token.Extra("id_token").(string)
	if nonce := nonceOf(id); subtle.ConstantTimeCompare([]byte(nonce), []byte(s.Nonce)) != 1 {
		return "", again("the issuer's token is not of this login")
	}
	_, err = a.SignIn(w, r, id)
	return s.Next, err
}

// nonceOf is the nonce of an ID token, whose signature somebody else verifies.
func nonceOf(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	text, err := encoding.DecodeString(parts[1])
	var claims struct {
		Nonce string `json:"nonce"`
	}
	if err != nil || json.Unmarshal(text, &claims) != nil {
		return ""
	}
	return claims.Nonce
}

// sealLogin signs what a login began with, by another word than sessions have.
func (s *sessions) sealLogin(payload string) []byte { return sealWith(s.Keys[0], payload) }

func sealWith(key []byte, payload string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("assay login v1\n" + payload))
	return h.Sum(nil)
}

func (s *sessions) openLogin(value string) (v started, ok bool) {
	payload, mac, _ := strings.Cut(value, ".")
	given, err := encoding.DecodeString(mac)
	if err != nil || len(value) > maxCookie {
		return v, false
	}
	for _, key := range s.Keys {
		if hmac.Equal(given, sealWith(key, payload)) {
			text, err := encoding.DecodeString(payload)
			return v, err == nil && json.Unmarshal(text, &v) == nil
		}
	}
	return v, false
}

// setLogin is Lax: the browser comes back from another site.
func setLogin(w http.ResponseWriter, value string, age int) {
	http.SetCookie(w, &http.Cookie{Name: loginCookie, Value: value, Path: "/", MaxAge: age, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}
