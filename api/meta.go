package api

import "encoding/json"

// TypeMeta names the version and kind of an object, as in Kubernetes.
type TypeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// ObjectMeta is the part of Kubernetes' metadata.k8s.io ObjectMeta that Assay
// reads, and the rest of it, which Assay accepts and ignores: what `kubectl get
// -o yaml` prints must be accepted.
type ObjectMeta struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	GenerateName               string          `json:"generateName,omitempty"`
	SelfLink                   string          `json:"selfLink,omitempty"`
	UID                        string          `json:"uid,omitempty"`
	ResourceVersion            string          `json:"resourceVersion,omitempty"`
	Generation                 json.RawMessage `json:"generation,omitempty"`
	CreationTimestamp          json.RawMessage `json:"creationTimestamp,omitempty"`
	DeletionTimestamp          json.RawMessage `json:"deletionTimestamp,omitempty"`
	DeletionGracePeriodSeconds json.RawMessage `json:"deletionGracePeriodSeconds,omitempty"`
	OwnerReferences            json.RawMessage `json:"ownerReferences,omitempty"`
	Finalizers                 json.RawMessage `json:"finalizers,omitempty"`
	ManagedFields              json.RawMessage `json:"managedFields,omitempty"`
}

// EnforcementAnnotation sets the mode of one ContainerAdmissionPolicy:
// "Enforce" (the default), "Warn" or "Audit". A policy in Warn or Audit mode
// never decides; what it would have done is reported.
const EnforcementAnnotation = "assay.dev/enforcement"

// MessageAnnotation is what the author of a ContainerAdmissionPolicy says to who is
// refused by it, such as whom to ask and a link: one line, shown before the reasons.
const MessageAnnotation = "assay.dev/message"

// Enforcement modes of a policy.
const (
	Enforce = "Enforce"
	Warn    = "Warn"
	Audit   = "Audit"
)
