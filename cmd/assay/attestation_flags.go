package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/assay-dev/assay/scanner/attestation"
)

// attestationFlags say whose SBOMs are taken, beside the images in their registries.
type attestationFlags struct {
	attestation.Config
	mode string
	log  string
}

func (f *attestationFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.mode, "attestations", "prefer", "with a key or an identity to trust: prefer an SBOM that it attested to one made here, or require it")
	fs.StringArrayVar(&f.KeyFiles, "attestation-key", nil, "trust attestations that a public key of this PEM file signed; may be repeated")
	fs.StringArrayVar(&f.Identities, "attestation-identity", nil, "trust attestations of this certificate identity, such as an e-mail address or the URL of a workflow; may be repeated")
	fs.StringVar(&f.IdentityPattern, "attestation-identity-regexp", "", "the same for identities that match as a whole")
	fs.StringVar(&f.Issuer, "attestation-issuer", "", "OpenID Connect issuer of the identities")
	fs.StringVar(&f.IssuerPattern, "attestation-issuer-regexp", "", "the same as a pattern that matches as a whole")
	fs.StringVar(&f.RootFile, "attestation-root", "", "Sigstore's trusted_root.json, for identities and log entries; nothing is fetched")
	fs.StringVar(&f.log, "attestation-log", string(attestation.LogKeyless), "which signatures need an entry of a transparency log: keyless, always or never")
	must(c.MarkFlagFilename("attestation-key", "pem", "pub"))
	must(c.MarkFlagFilename("attestation-root", "json"))
	must(c.RegisterFlagCompletionFunc("attestations", cobra.FixedCompletions([]string{"prefer", "require"}, cobra.ShellCompDirectiveNoFileComp)))
	must(c.RegisterFlagCompletionFunc("attestation-log", cobra.FixedCompletions([]string{"keyless", "always", "never"}, cobra.ShellCompDirectiveNoFileComp)))
}

// verifier is nil where nobody is trusted: attestations are then not looked for.
func (f *attestationFlags) verifier() (*attestation.Verifier, error) {
	switch f.mode {
	case "prefer", "require":
	default:
		return nil, fmt.Errorf("--attestations must be prefer or require, not %q", f.mode)
	}
	f.Required, f.Log = f.mode == "require", attestation.Log(f.log)
	if !f.Set() {
		return nil, nil
	}
	v, err := attestation.New(f.Config)
	if err != nil {
		return nil, fmt.Errorf("attestations: %w", err)
	}
	return v, nil
}
