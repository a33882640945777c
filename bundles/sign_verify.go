package bundles

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// Verify reads a bundle that one of the keys has signed. The verdict is that of
// OPA's own reader; beyond it, a signature that is past its end is refused. The
// error is a [*SignatureError] when the signature does not hold.
func Verify(text []byte, now time.Time, keys ...*VerificationKey) (*bundle.Bundle, error) {
	if len(text) > MaxBundle {
		return nil, fmt.Errorf("reading the bundle: it has more than %d bytes", MaxBundle)
	}
	if len(keys) == 0 {
		return nil, errors.New("verifying the bundle: there is no key")
	}
	var failed error
	for _, k := range keys {
		b, err := bundle.NewCustomReader(bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(text), "")).
			WithSizeLimitBytes(MaxBundle).WithProcessAnnotations(true).WithRegoVersion(ast.RegoV1).
			WithBundleVerificationConfig(k.verification()).Read()
		if err != nil {
			failed = err
			continue
		}
		c, err := claimsOf(b.Signatures)
		if err != nil {
			return nil, err
		}
		if end := time.Unix(c.ExpiresAt, 0).UTC(); c.ExpiresAt != 0 && !now.Before(end) {
			return nil, &SignatureError{Reason: "it expired at " + end.Format(time.RFC3339)}
		}
		return &b, nil
	}
	if err := explain(text, keys); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("reading the bundle: %w", failed)
}

// claimsOf is the payload of a signature, not verified.
func claimsOf(s bundle.SignaturesConfig) (claims, error) {
	var c claims
	if len(s.Signatures) != 1 {
		return c, &SignatureError{Reason: fmt.Sprintf("%s must hold one signature, not %d", signaturesFile, len(s.Signatures))}
	}
	parts := strings.Split(s.Signatures[0], ".")
	if len(parts) != 3 {
		return c, &SignatureError{Reason: signaturesFile + " holds no JWT"}
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(body, &c)
	}
	if err != nil {
		return c, &SignatureError{Reason: signaturesFile + " holds no JWT: " + err.Error()}
	}
	return c, nil
}

// explain finds all that is wrong with a signature, nil if nothing is.
func explain(text []byte, keys []*VerificationKey) error {
	type file struct {
		name    string
		content []byte
	}
	var files []file
	var signatures []byte
	var count int
	err := eachFile(text, MaxBundle, func(name string, content []byte) error {
		if bundle.IsSignaturesFile(name) {
			signatures = content
			count++
			return nil
		}
		files = append(files, file{strings.TrimPrefix(name, "/"), content})
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the bundle: %w", err)
	}
	if count != 1 {
		return &SignatureError{Reason: fmt.Sprintf("the bundle has %d files %s", count, signaturesFile)}
	}
	var sc bundle.SignaturesConfig
	if err := json.Unmarshal(signatures, &sc); err != nil {
		return &SignatureError{Reason: signaturesFile + " is no JSON: " + err.Error()}
	}
	c, err := claimsOf(sc)
	if err != nil {
		return err
	}
	var signed map[string]bundle.FileInfo
	for _, k := range keys {
		var failed error
		if signed, failed = bundle.VerifyBundleSignature(sc, k.verification()); failed == nil {
			err = nil
			break
		}
		err = failed
	}
	if err != nil {
		return &SignatureError{Reason: fmt.Sprintf("no key given made it (it names its key %q): %v", c.KeyID, err)}
	}
	e := &SignatureError{}
	for _, f := range files {
		if _, ok := signed[f.name]; !ok {
			e.Added = append(e.Added, f.name)
		} else if err := bundle.VerifyBundleFile(f.name, *bytes.NewBuffer(f.content), signed); err != nil {
			e.Changed = append(e.Changed, f.name)
		}
		delete(signed, f.name)
	}
	slices.Sort(e.Added)
	slices.Sort(e.Changed)
	e.Removed = slices.Sorted(maps.Keys(signed))
	if len(e.Added)+len(e.Changed)+len(e.Removed) == 0 {
		return nil
	}
	return e
}
