// Package attestation finds the SBOMs that are attached to an image in its registry, and
// says which of them a trusted signer vouches for.
//
// It looks where cosign, Sigstore and BuildKit put them: referrers of a manifest and
// their fallback tag, the tags sha256-….att, .sig and .sbom, and the attestation
// manifests of an index. All that is read comes from whoever may write to the
// registry: what is not signed by a configured key or identity, or is about another
// image, is named among what was ignored and read no further.
package attestation
