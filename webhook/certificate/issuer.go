// Package certificate makes the webhook's serving certificate, and the authority that
// signs it, and renews both without a restart. All replicas share them in a Secret.
// docs/design/012-registration.md says in which order, and why no call fails in between.
package certificate

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
)

// Defaults of [Issuer].
const (
	DefaultLifetime          = 90 * 24 * time.Hour
	DefaultAuthorityLifetime = 2 * 365 * 24 * time.Hour
	DefaultSettle            = 3 * time.Minute
	DefaultEvery             = time.Minute
)

// Issuer keeps a serving certificate in a Secret and in memory. It needs the rights
// to get, create and update that Secret. Its methods may be called concurrently.
// It is a dynamiccertificates.CertKeyContentProvider: call Sync once before it is served.
type Issuer struct {
	Client kubernetes.Interface
	// Namespace and Secret are where the certificate is: tls.crt and tls.key, the
	// authorities in ca.crt, the newest first, and the newest one's key in ca.key.
	Namespace, Secret string
	// Names are the DNS names that the certificate is for; at least one.
	Names []string
	// Publish tells those who call the webhook which authorities to trust, in PEM. It
	// is called in each round, so it should write only what differs. A new authority
	// signs nothing before Publish took it. Nil publishes nothing.
	Publish func(ctx context.Context, bundle []byte) error

	// Lifetime of a serving certificate, and of an authority; each is renewed when two
	// thirds are over. Zero: the defaults.
	Lifetime, AuthorityLifetime time.Duration
	// Settle is how long a new authority must have been published before it signs: the
	// time that API servers need to learn of it, and rounds of the other replicas.
	// Zero: DefaultSettle; less than two rounds is too little.
	Settle time.Duration
	// Every is the time between two rounds. Zero: DefaultEvery.
	Every time.Duration
	// Now is the clock, for dates; nil is the usual one.
	Now func() time.Time
	Log *slog.Logger

	round          sync.Mutex // held by Sync, with what follows
	published      []byte     // the bundle that Publish took
	publishedSince time.Time

	mu        sync.RWMutex // what follows
	current   content
	listeners []dynamiccertificates.Listener
}

// Run keeps the certificate until the context ends.
func (i *Issuer) Run(ctx context.Context) error {
	const retry = 5 * time.Second
	every := cmp.Or(i.Every, DefaultEvery)
	for {
		wait := every
		if err := i.Sync(ctx); err != nil && ctx.Err() == nil {
			i.Log.Error("the serving certificate cannot be kept up to date; the last one stays", "error", err)
			wait = min(every, retry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// Sync is one round: it takes what the Secret has, replaces what is missing, damaged
// or due, and publishes the authorities. An error leaves what was served before.
func (i *Issuer) Sync(ctx context.Context) error {
	i.round.Lock()
	defer i.round.Unlock()
	if len(i.Names) == 0 {
		return errors.New("the serving certificate needs a DNS name")
	}
	secrets := i.Client.CoreV1().Secrets(i.Namespace)
	const attempts = 10
	for range attempts {
		secret, err := secrets.Get(ctx, i.Secret, metav1.GetOptions{})
		missing := apierrors.IsNotFound(err)
		if missing {
			secret, err = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: i.Namespace, Name: i.Secret}, Type: corev1.SecretTypeTLS}, nil
		}
		if err != nil {
			return fmt.Errorf("reading Secret %s/%s: %w", i.Namespace, i.Secret, err)
		}
		c, faults := parse(secret.Data)
		if len(faults) > 0 && !missing {
			i.Log.Warn("the Secret of the serving certificate is damaged; what is damaged is replaced", "namespace", i.Namespace, "secret", i.Secret, "faults", faults)
		}
		made, err := i.renew(&c)
		if err != nil {
			return err
		}
		if data := c.data(); !contains(secret.Data, data) {
			secret = secret.DeepCopy()
			if secret.Data == nil {
				secret.Data = map[string][]byte{}
			}
			maps.Copy(secret.Data, data)
			if missing {
				_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
			} else {
				_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
			}
			if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
				continue // another replica was faster: what it made is as good
			}
			if err != nil {
				return fmt.Errorf("writing Secret %s/%s: %w", i.Namespace, i.Secret, err)
			}
		}
		for _, text := range made {
			i.Log.Info(text, "authority", c.authorities[0].SerialNumber.Text(16), "authorityEnds", c.authorities[0].NotAfter, "certificateEnds", c.pair.Leaf.NotAfter)
		}
		i.adopt(c)
		return i.publish(ctx, c.bundle())
	}
	return fmt.Errorf("writing Secret %s/%s: others keep changing it", i.Namespace, i.Secret)
}

func contains(all, some map[string][]byte) bool {
	for k, v := range some {
		if !bytes.Equal(all[k], v) {
			return false
		}
	}
	return true
}

func (i *Issuer) adopt(c content) {
	c.authorityKey, c.authorityKeyPEM = nil, nil // what is not needed is not kept in memory
	i.mu.Lock()
	changed := !bytes.Equal(c.certificate, i.current.certificate)
	i.current = c
	listeners := i.listeners
	i.mu.Unlock()
	if changed {
		for _, l := range listeners {
			l.Enqueue()
		}
	}
}

func (i *Issuer) publish(ctx context.Context, bundle []byte) error {
	if i.Publish != nil {
		if err := i.Publish(ctx, bundle); err != nil {
			i.published = nil
			return fmt.Errorf("publishing the authority of the serving certificate: %w", err)
		}
	}
	if !bytes.Equal(i.published, bundle) {
		i.published, i.publishedSince = bundle, i.now()
	}
	return nil
}

// settled says that those who call trust all authorities of the bundle by now.
func (i *Issuer) settled(bundle []byte) bool {
	return bytes.Equal(i.published, bundle) && i.now().Sub(i.publishedSince) >= cmp.Or(i.Settle, DefaultSettle)
}

func (i *Issuer) now() time.Time {
	if i.Now != nil {
		return i.Now()
	}
	return time.Now()
}

// Bundle is the authorities in PEM; nil before the first Sync.
func (i *Issuer) Bundle() []byte {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.current.bundle()
}

// GetCertificate is for a tls.Config.
func (i *Issuer) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if i.current.pair == nil {
		return nil, errors.New("there is no serving certificate yet")
	}
	return i.current.pair, nil
}

// Name names the certificate in logs.
func (i *Issuer) Name() string { return "Secret " + i.Namespace + "/" + i.Secret }

// CurrentCertKeyContent is the serving certificate and its key in PEM; nil before the first Sync.
func (i *Issuer) CurrentCertKeyContent() (certificate, key []byte) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.current.certificate, i.current.key
}

// AddListener has the listener told of each new serving certificate.
func (i *Issuer) AddListener(l dynamiccertificates.Listener) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.listeners = append(i.listeners, l)
}
