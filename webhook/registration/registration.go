// Package registration keeps what the API server is told of the webhook: which authority
// signs its certificate, and which requests it is called for. It needs the rights to
// get and update the ValidatingWebhookConfigurations that it is given by name.
// docs/design/012-registration.md says in which order things are written.
package registration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
)

// Names that a registration must use.
const (
	// Webhook is the one for workloads in a ValidatingWebhookConfiguration, the only one that gets a [Scope].
	Webhook = "workloads.assay.dev"
	// Condition is the match condition of a [Scope]; those of other names stay as they are.
	Condition = "policies.assay.dev"
)

// maxConditions is the API server's bound of match conditions.
const maxConditions = 64

// CABundle writes the authorities, in PEM, into every webhook of the named configurations,
// where they differ. It tries all of them, and its error has all that failed.
func CABundle(ctx context.Context, client kubernetes.Interface, names []string, bundle []byte) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, change(ctx, client, name, func(c *admissionv1.ValidatingWebhookConfiguration) error {
			for i := range c.Webhooks {
				if !bytes.Equal(c.Webhooks[i].ClientConfig.CABundle, bundle) {
					c.Webhooks[i].ClientConfig.CABundle = bundle
				}
			}
			return nil
		}))
	}
	return errors.Join(errs...)
}

// Apply has the webhook called for the scope and nothing else. Policies that need more
// must not be in force, nor come into force before another [Widen]. An administrator's
// own conditions stay, selectors do not: namespaces are excluded by AdmissionSettings.
func Apply(ctx context.Context, client kubernetes.Interface, name string, scope Scope) error {
	return changeWorkloads(ctx, client, name, scope.apply)
}

// Widen has the webhook called for the scope and for all that it is called for now. It is
// for policies that are about to come into force: when it returns, they may.
func Widen(ctx context.Context, client kubernetes.Interface, name string, scope Scope) error {
	return changeWorkloads(ctx, client, name, scope.widen)
}

func (s Scope) apply(w *admissionv1.ValidatingWebhook) {
	w.Rules, w.NamespaceSelector, w.ObjectSelector = s.Rules, s.NamespaceSelector, s.ObjectSelector
	others := slices.DeleteFunc(slices.Clone(w.MatchConditions), isOurs)
	if s.Condition != "" && len(others) < maxConditions {
		others = append(others, admissionv1.MatchCondition{Name: Condition, Expression: s.Condition})
	}
	w.MatchConditions = others
}

func isOurs(c admissionv1.MatchCondition) bool { return c.Name == Condition }

// widen joins what differs: of two namespace selectors what both exclude by name and what
// both require in the same words, of two other selectors or conditions nothing.
func (s Scope) widen(w *admissionv1.ValidatingWebhook) {
	if len(w.Rules) == 0 {
		s.apply(w)
	}
	if len(s.Rules) == 0 {
		return
	}
	for _, r := range s.Rules {
		if !slices.ContainsFunc(w.Rules, func(had admissionv1.RuleWithOperations) bool { return equality.Semantic.DeepEqual(had, r) }) {
			w.Rules = append(w.Rules, r)
		}
	}
	if !equality.Semantic.DeepEqual(w.NamespaceSelector, s.NamespaceSelector) {
		w.NamespaceSelector = &metav1.LabelSelector{MatchExpressions: append(excluding(excludedByBoth(w.NamespaceSelector, s.NamespaceSelector)), requiredByBoth(w.NamespaceSelector, s.NamespaceSelector)...)}
	}
	if !equality.Semantic.DeepEqual(w.ObjectSelector, s.ObjectSelector) {
		w.ObjectSelector = &metav1.LabelSelector{}
	}
	w.MatchConditions = slices.DeleteFunc(slices.Clone(w.MatchConditions), func(c admissionv1.MatchCondition) bool {
		return isOurs(c) && c.Expression != s.Condition
	})
}

// excludedByBoth are the namespaces that one selector names as excluded, and the other excludes too.
func excludedByBoth(a, b *metav1.LabelSelector) (names []string) {
	for _, pair := range [][2]*metav1.LabelSelector{{a, b}, {b, a}} {
		if pair[0] == nil {
			continue
		}
		for _, r := range pair[0].MatchExpressions {
			if r.Key != metadataName || r.Operator != metav1.LabelSelectorOpNotIn {
				continue
			}
			for _, name := range r.Values {
				if excludes(pair[1], name) {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

// requiredByBoth are the requirements that stand in both selectors, but for excluded
// namespaces. Whatever either matches has them.
func requiredByBoth(a, b *metav1.LabelSelector) (list []metav1.LabelSelectorRequirement) {
	if a == nil || b == nil {
		return nil
	}
	for _, r := range a.MatchExpressions {
		if excluded := r.Key == metadataName && r.Operator == metav1.LabelSelectorOpNotIn; !excluded &&
			slices.ContainsFunc(b.MatchExpressions, func(o metav1.LabelSelectorRequirement) bool { return equality.Semantic.DeepEqual(r, o) }) {
			list = append(list, r)
		}
	}
	return list
}

// excludes says that a selector matches no namespace of the name, by the name alone.
func excludes(s *metav1.LabelSelector, name string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if s == nil || err != nil {
		return false
	}
	requirements, _ := selector.Requirements()
	return slices.ContainsFunc(requirements, func(r labels.Requirement) bool {
		return r.Key() == metadataName && !r.Matches(labels.Set{metadataName: name})
	})
}

func changeWorkloads(ctx context.Context, client kubernetes.Interface, name string, do func(*admissionv1.ValidatingWebhook)) error {
	return change(ctx, client, name, func(c *admissionv1.ValidatingWebhookConfiguration) error {
		i := slices.IndexFunc(c.Webhooks, func(w admissionv1.ValidatingWebhook) bool { return w.Name == Webhook })
		if i < 0 {
			return fmt.Errorf("it has no webhook named %s", Webhook)
		}
		w := &c.Webhooks[i]
		do(w)
		equivalent := admissionv1.Equivalent // the rules name one version of each built-in kind
		w.MatchPolicy = &equivalent
		return nil
	})
}

// change writes a configuration if that makes a difference, on what is there at that time.
func change(ctx context.Context, client kubernetes.Interface, name string, do func(*admissionv1.ValidatingWebhookConfiguration) error) error {
	configurations := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		before, err := configurations.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		after := before.DeepCopy()
		if err := do(after); err != nil || equality.Semantic.DeepEqual(before, after) {
			return err
		}
		_, err = configurations.Update(ctx, after, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("ValidatingWebhookConfiguration %s: %w", name, err)
	}
	return nil
}
