package registration

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	"github.com/assay-dev/assay/policies"
)

// Defaults of [Keep].
const (
	DefaultDelay = time.Minute
	DefaultEvery = 10 * time.Second
)

// Keep keeps a registration in step with the policies in force: never narrower than
// they are, in any replica, and as narrow once they stay. Its methods may be called
// concurrently.
type Keep struct {
	Client kubernetes.Interface
	// Name is that of the ValidatingWebhookConfiguration.
	Name string
	// Resource is as in [Narrow].
	Resource func(schema.GroupKind) (string, error)
	// Namespaces are requirements that namespaces must meet to be judged at all, whatever
	// policies say; none: all are.
	Namespaces []metav1.LabelSelectorRequirement
	// Delay is how long policies must have been in force before the registration is
	// narrowed to them, so that other replicas have them too. Zero: DefaultDelay.
	Delay time.Duration
	// Every is the time between looks at the registration, which others may have narrowed.
	// Zero: DefaultEvery.
	Every time.Duration
	Log   *slog.Logger

	mu      sync.Mutex
	scope   *Scope    // of the policies in force; nil: none are yet
	since   time.Time // when they came into force
	applied bool
}

// Load widens the registration to what the set can match, and only then has load bring
// the set into force. The error is that of load. A registration that cannot be
// written keeps no policies from being loaded: Run tries again.
func (k *Keep) Load(ctx context.Context, set *policies.Set, load func() error) error {
	k.mu.Lock() // until the set is in force: Run must not narrow to the one before
	defer k.mu.Unlock()
	scope := Narrow(set, k.Resource).within(k.Namespaces)
	k.write(ctx, Widen, scope)
	err := load()
	if err == nil {
		k.scope = &scope
	}
	k.since, k.applied = time.Now(), false
	return err
}

// Run narrows the registration to the policies in force when they have been so for some
// time, once; from then on it only widens what others narrowed. So a replica that is
// behind can narrow no further than the others let it. It ends with the context.
func (k *Keep) Run(ctx context.Context) error {
	for {
		k.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(cmp.Or(k.Every, DefaultEvery)):
		}
	}
}

func (k *Keep) look(ctx context.Context) {
	if !k.mu.TryLock() { // policies are being loaded, and it is wide enough for them
		return
	}
	defer k.mu.Unlock()
	switch {
	case k.scope == nil:
	case !k.applied && time.Since(k.since) >= cmp.Or(k.Delay, DefaultDelay):
		k.applied = k.write(ctx, Apply, *k.scope)
	default:
		k.write(ctx, Widen, *k.scope)
	}
}

func (k *Keep) write(ctx context.Context, how func(context.Context, kubernetes.Interface, string, Scope) error, scope Scope) bool {
	const patience = 10 * time.Second // policies wait for it
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := how(ctx, k.Client, k.Name, scope)
	if err != nil {
		k.Log.Error("the registration of the webhook cannot be kept in step with the policies", "error", err)
	}
	return err == nil
}
