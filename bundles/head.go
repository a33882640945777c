package bundles

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/assay-dev/assay/documents"
)

// PartHead is the name of the head: a small bundle of its own beside the parts, which says
// what they are at one moment. It is no part: decisions name no revision of it, and it
// is not among [Parts].
const PartHead = "head"

// HeadOf is the name of the head of a view: of the parts that some readers have, such as those of
// a cluster. "" is that of the parts that all have.
func HeadOf(view string) string {
	if view == "" {
		return PartHead
	}
	return PartHead + "-" + view
}

// Head says which parts belong together, from when they are, and which head came before: who has
// followed one takes none with a lesser sequence. It is the document data.assay.head.
type Head struct {
	// Store names what the parts are made of, and View whose they are; sequences of two stores or
	// views are not compared.
	Store, View string
	Sequence    int64 // positive, grows with each head
	// Time is a moment of which the parts have everything.
	Time time.Time
	// Until is the moment from which data.assay.fresh no longer admits by the parts.
	Until time.Time
	// Parts are the digests of the bundles by name, as [Digest] makes them.
	Parts map[string]string
}

// Digest names the bytes of a bundle: "sha256:" and hexadecimal digits.
func Digest(text []byte) string {
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// headRoot is the only root of a head's bundle.
const headRoot = "assay/head"

// headDocument is a Head as data.
type headDocument struct {
	Store    string            `json:"store"`
	View     string            `json:"view,omitempty"`
	Sequence int64             `json:"sequence"`
	Time     string            `json:"time"`
	Until    string            `json:"until"`
	Parts    map[string]string `json:"parts"`
}

// Bundle packs the head.
func (h Head) Bundle() (*bundle.Bundle, error) {
	text, err := json.Marshal(headDocument{h.Store, h.View, h.Sequence, documents.Time(h.Time), documents.Time(h.Until), h.Parts})
	if err != nil {
		return nil, fmt.Errorf("packing the head: %w", err)
	}
	return &bundle.Bundle{
		Manifest: manifest(fmt.Sprintf("%s.head.%d", h.Store, h.Sequence), headRoot),
		Data:     map[string]any{"assay": map[string]any{"head": json.RawMessage(text)}},
	}, nil
}

// MaxHead bounds the bundle of a head, in bytes, unpacked too.
const MaxHead = 4 << 20

// OpenHead reads the head in a bundle that one of the keys has signed; without keys, in any. What is
// too large is refused before it is unpacked. Whether the head is one to go on with is for
// the caller to decide. The error is a [*SignatureError] when the signature does not hold.
func OpenHead(text []byte, now time.Time, keys ...*VerificationKey) (Head, error) {
	if err := eachFile(text, MaxHead, func(string, []byte) error { return nil }); err != nil {
		return Head{}, fmt.Errorf("reading the head: it %w", err)
	}
	var b *bundle.Bundle
	var err error
	if len(keys) == 0 {
		b, err = Read(bytes.NewReader(text))
	} else {
		b, err = Verify(text, now, keys...)
	}
	if err != nil {
		return Head{}, err
	}
	var roots []string
	if b.Manifest.Roots != nil {
		roots = *b.Manifest.Roots
	}
	if !slices.Equal(roots, []string{headRoot}) || len(b.Modules) > 0 {
		return Head{}, fmt.Errorf("reading the head: the bundle is none, its roots are %q", strings.Join(roots, ", "))
	}
	assay, _ := b.Data["assay"].(map[string]any)
	return headOf(assay["head"])
}

// headOf reads the document.
func headOf(document any) (Head, error) {
	text, err := json.Marshal(document)
	if err != nil {
		return Head{}, fmt.Errorf("reading the head: %w", err)
	}
	var d headDocument
	if err := json.Unmarshal(text, &d); err != nil {
		return Head{}, fmt.Errorf("reading the head: %w", err)
	}
	h := Head{Store: d.Store, View: d.View, Sequence: d.Sequence, Parts: d.Parts}
	if h.Time, err = time.Parse(time.RFC3339, d.Time); err == nil {
		h.Until, err = time.Parse(time.RFC3339, d.Until)
	}
	if err != nil {
		return Head{}, fmt.Errorf("reading the head: %w", err)
	}
	if h.Store == "" || h.Sequence <= 0 || len(h.Parts) == 0 {
		return Head{}, fmt.Errorf("reading the head: store %q, sequence %d and %d parts are not those of a head", h.Store, h.Sequence, len(h.Parts))
	}
	return h, nil
}
