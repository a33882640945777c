package registration

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// chart is a registration as it is installed: a webhook for workloads, one for policies.
func chart() *admissionv1.ValidatingWebhookConfiguration {
	return &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "assay"},
		Webhooks: []admissionv1.ValidatingWebhook{
			{Name: "policies.assay.dev", Rules: []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{admissionv1.OperationAll}}}},
			{Name: Webhook, MatchConditions: []admissionv1.MatchCondition{{Name: "mine", Expression: "true"}}},
		},
	}
}

// clientWith refuses updates of what has changed since it was read, as an API server does,
// and counts those that it takes.
func clientWith(c *admissionv1.ValidatingWebhookConfiguration) (client *fake.Clientset, updates func() int) {
	client = fake.NewClientset(c)
	var mu sync.Mutex
	n := 0
	client.PrependReactor("update", "validatingwebhookconfigurations", func(action k8stesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		next := action.(k8stesting.UpdateAction).GetObject().(*admissionv1.ValidatingWebhookConfiguration).DeepCopy()
		stored, err := client.Tracker().Get(action.GetResource(), "", next.Name)
		if err != nil {
			return true, nil, err
		}
		if stored.(*admissionv1.ValidatingWebhookConfiguration).ResourceVersion != next.ResourceVersion {
			return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), next.Name, errors.New("changed"))
		}
		n++
		next.ResourceVersion = strconv.Itoa(n)
		return true, next, client.Tracker().Update(action.GetResource(), next, "")
	})
	return client, func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

func read(t *testing.T, client *fake.Clientset) []admissionv1.ValidatingWebhook {
	t.Helper()
	c, err := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(context.Background(), "assay", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return c.Webhooks
}

func TestCABundle(t *testing.T) {
	client, updates := clientWith(chart())
	var group sync.WaitGroup
	for range 4 { // replicas write the same at the same time
		group.Go(func() {
			if err := CABundle(context.Background(), client, []string{"assay"}, []byte("one")); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if updates() != 1 {
		t.Errorf("%d updates for one bundle", updates())
	}
	err := CABundle(context.Background(), client, []string{"gone", "assay"}, []byte("two"))
	if !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), "ValidatingWebhookConfiguration gone") {
		t.Errorf("the error is %v", err)
	}
	want := chart().Webhooks
	for i, w := range read(t, client) {
		want[i].ClientConfig.CABundle = []byte("two")
		if !equality.Semantic.DeepEqual(w, want[i]) {
			t.Errorf("webhook %s is %+v", w.Name, w)
		}
	}
}

func TestApply(t *testing.T) {
	client, updates := clientWith(chart())
	ctx := context.Background()
	scope := Narrow(setOf(t, nil, "app starts with 'a'"), nil)
	for range 3 {
		if err := Apply(ctx, client, "assay", scope); err != nil {
			t.Fatal(err)
		}
		if err := Widen(ctx, client, "assay", scope); err != nil {
			t.Fatal(err)
		}
	}
	if updates() != 1 {
		t.Errorf("%d updates for one scope", updates())
	}
	got := read(t, client)
	if !equality.Semantic.DeepEqual(got[0], chart().Webhooks[0]) {
		t.Errorf("the webhook for policies is now %+v", got[0])
	}
	w := got[1]
	if len(w.Rules) != 3 || formatted(w.ObjectSelector) != "app" || *w.MatchPolicy != admissionv1.Equivalent || len(w.MatchConditions) != 2 || w.MatchConditions[0].Name != "mine" || w.MatchConditions[1].Expression != scope.Condition {
		t.Errorf("the webhook is %+v", w)
	}

	// Wider, then narrower; what is an administrator's own stays.
	if err := Widen(ctx, client, "assay", Narrow(setOf(t, nil, "tier == 'b'"), nil)); err != nil {
		t.Fatal(err)
	}
	if w = read(t, client)[1]; formatted(w.ObjectSelector) != "" || len(w.MatchConditions) != 1 {
		t.Errorf("widened, the webhook is %+v", w)
	}
	if err := Apply(ctx, client, "assay", Narrow(setOf(t, nil, "tier == 'b'"), nil)); err != nil {
		t.Fatal(err)
	}
	if w = read(t, client)[1]; formatted(w.ObjectSelector) != "tier in (b)" || len(w.MatchConditions) != 1 || w.MatchConditions[0].Name != "mine" {
		t.Errorf("applied, the webhook is %+v", w)
	}

	other := chart()
	other.Webhooks = other.Webhooks[:1]
	client, _ = clientWith(other)
	if err := Apply(ctx, client, "assay", scope); err == nil || err.Error() != "ValidatingWebhookConfiguration assay: it has no webhook named workloads.assay.dev" {
		t.Errorf("the error is %v", err)
	}
	full := chart()
	for i := range maxConditions - 1 {
		full.Webhooks[1].MatchConditions = append(full.Webhooks[1].MatchConditions, admissionv1.MatchCondition{Name: strconv.Itoa(i), Expression: "true"})
	}
	client, _ = clientWith(full)
	if err := Apply(ctx, client, "assay", scope); err != nil || len(read(t, client)[1].MatchConditions) != maxConditions {
		t.Errorf("%v, %d conditions", err, len(read(t, client)[1].MatchConditions))
	}
}

// kept is a registration with a replica that keeps it.
func kept(t *testing.T, client *fake.Clientset) (k *Keep, log *bytes.Buffer) {
	log = &bytes.Buffer{}
	k = &Keep{Client: client, Name: "assay", Log: slog.New(slog.NewTextHandler(log, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return k, log
}

// Wide before policies are in force, narrow after they have been for a while.
func TestKeepWidensBeforePolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := clientWith(chart())
		k, _ := kept(t, client)
		objects := func() string { return formatted(read(t, client)[1].ObjectSelector) }
		one, two := setOf(t, nil, "app == 'a'"), setOf(t, nil, "tier == 'b'")
		load := func() error { return nil }
		if err := k.Load(t.Context(), one, load); err != nil || objects() != "app in (a)" {
			t.Errorf("%v, %s", err, objects())
		}
		seen := ""
		if err := k.Load(t.Context(), two, func() error {
			seen = "[" + objects() + "]"
			time.Sleep(2 * DefaultDelay) // it takes its time
			seen += "[" + objects() + "]"
			return nil
		}); err != nil || seen != "[][]" {
			t.Errorf("%v; while policies were loaded the registration was for %s", err, seen)
		}
		time.Sleep(DefaultDelay - time.Second)
		if objects() != "" {
			t.Error("narrowed before other replicas could follow")
		}
		time.Sleep(time.Second + DefaultEvery)
		if objects() != "tier in (b)" {
			t.Errorf("narrowed to %s", objects())
		}

		// Policies that cannot be loaded leave those in force what they were.
		fault := errors.New("too large")
		if err := k.Load(t.Context(), one, func() error { return fault }); err != fault || objects() != "" {
			t.Errorf("%v, %s", err, objects())
		}
		time.Sleep(DefaultDelay + DefaultEvery)
		if objects() != "tier in (b)" {
			t.Errorf("narrowed to %s", objects())
		}
	})
}

// A replica with old policies narrows nothing for long.
func TestReplicaBehindDoesNotNarrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, updates := clientWith(chart())
		behind, _ := kept(t, client)
		ahead, _ := kept(t, client)
		load := func() error { return nil }
		for k, s := range map[*Keep]string{ahead: "app == 'a'", behind: "tier == 'b'"} {
			if err := k.Load(t.Context(), setOf(t, nil, s), load); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * DefaultDelay)
		before := updates()
		for range 100 {
			if got := formatted(read(t, client)[1].ObjectSelector); got != "" {
				t.Fatalf("the registration is for %s", got)
			}
			time.Sleep(DefaultEvery)
		}
		if updates() != before {
			t.Errorf("%d updates in vain", updates()-before)
		}
	})
}

func TestKeepWithoutRights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, updates := clientWith(chart())
		denied := true
		client.PrependReactor("get", "validatingwebhookconfigurations", func(k8stesting.Action) (bool, runtime.Object, error) {
			return denied, nil, errors.New("forbidden")
		})
		k, log := kept(t, client)
		loaded := false
		if err := k.Load(t.Context(), setOf(t, nil, "app == 'a'"), func() error { loaded = true; return nil }); err != nil || !loaded {
			t.Errorf("policies are not loaded: %v", err)
		}
		time.Sleep(2 * DefaultDelay)
		synctest.Wait()
		if updates() > 0 || !strings.Contains(log.String(), "forbidden") {
			t.Errorf("the log is %s", log)
		}
		denied = false
		time.Sleep(DefaultDelay)
		if got := formatted(read(t, client)[1].ObjectSelector); got != "app in (a)" {
			t.Errorf("the registration is for %s", got)
		}
	})
}
