package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/assay-dev/assay/bundles"
	"github.com/spf13/cobra"
)

// maxKey bounds a key file, in bytes.
const maxKey = 1 << 20

func (a *app) bundleKeygen() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "keygen -o NAME",
		Short: "Make a key pair to sign bundles with",
		Long: `Writes NAME.key, which signs and only you can read, and NAME.pub, which verifies
and goes to every OPA: ECDSA on P-256 in PEM, for ES256. Files that are there
are not overwritten.`,
		Example: "  assay bundle keygen -o assay",
		Args:    cobra.NoArgs,
	}
	c.Flags().StringVarP(&out, "output", "o", "assay", "name of the files, without extension")
	c.RunE = func(*cobra.Command, []string) error {
		private, public, err := bundles.GenerateKey()
		if err != nil {
			return err
		}
		if err := writeNew(out+".key", private, 0o600); err != nil {
			return err
		}
		if err := writeNew(out+".pub", public, 0o644); err != nil {
			return errors.Join(err, os.Remove(out+".key"))
		}
		fmt.Fprintf(a.out, "%[1]s.key signs, %[1]s.pub verifies (ES256)\n", out)
		return nil
	}
	return c
}

// writeNew writes a file that is not there yet.
func writeNew(name string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists and is not overwritten", name)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", name, err), os.Remove(name))
	}
	return nil
}

// signing are the flags of what signs.
type signing struct {
	key, id  string
	notAfter moment
}

func (s *signing) flags(c *cobra.Command, prefix string) {
	c.Flags().StringVar(&s.key, prefix+"key", "", "private key in PEM: ECDSA on P-256 (ES256), or RSA (RS256)")
	c.Flags().StringVar(&s.id, prefix+"key-id", bundles.DefaultKeyID, "name of the key, for those who verify with several")
}

func (a *app) signingKey(s signing) (*bundles.SigningKey, error) {
	text, err := a.readInput(s.key, maxKey)
	if err != nil {
		return nil, err
	}
	key, err := bundles.ParseSigningKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.key, err)
	}
	key.ID, key.NotAfter = s.id, s.notAfter.Time
	return key, nil
}

func (a *app) bundleSign() *cobra.Command {
	var s signing
	var out string
	c := &cobra.Command{
		Use:   "sign FILE... --key FILE",
		Short: "Sign bundles as OPA verifies them",
		Long: `Adds .signatures.json, or replaces it, and leaves the other files of a bundle as
they are. Equal bundles and keys give equal bytes. Stock OPA verifies with
--verification-key and --signing-alg; at --not-after it does not look.`,
		Example: `  assay bundle sign bundle.tar.gz --key assay.key
  opa run --server -b bundle.tar.gz --verification-key assay.pub --signing-alg ES256`,
		Args: cobra.MinimumNArgs(1),
	}
	s.flags(c, "")
	must(c.MarkFlagRequired("key"))
	c.Flags().Var(&s.notAfter, "not-after", "moment from which the signature is refused; without it, never")
	c.Flags().StringVarP(&out, "output", "o", "", "file to write, - for standard output; without it FILE itself")
	c.RunE = func(_ *cobra.Command, args []string) error {
		if out != "" && len(args) > 1 {
			return errors.New("--output is for one bundle; several are signed in place")
		}
		key, err := a.signingKey(s)
		if err != nil {
			return err
		}
		for _, name := range args {
			if err := a.signBundle(key, name, cmp.Or(out, name)); err != nil {
				return err
			}
		}
		return nil
	}
	return c
}

func (a *app) signBundle(key *bundles.SigningKey, name, out string) error {
	text, err := a.readInput(name, bundles.MaxBundle)
	if err != nil {
		return err
	}
	signed, err := key.Sign(text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if out == "-" {
		_, err = a.out.Write(signed)
		return err
	}
	if err := writeFile(out, signed); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "%s: signed (%s, key %s)\n", out, key.Algorithm(), key.ID)
	return nil
}

// verification is the document of `assay bundle verify -o json`.
type verification struct {
	Schema   string   `json:"schema"`
	OK       bool     `json:"ok"`
	Revision string   `json:"revision,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Changed  []string `json:"changed"`
	Added    []string `json:"added"`
	Removed  []string `json:"removed"`
}

const schemaVerification = "assay.dev/bundle-verification/v1"

func (a *app) bundleVerify() *cobra.Command {
	var keys []string
	var now moment
	c := &cobra.Command{
		Use:   "verify FILE --key FILE",
		Short: "Verify the signature of a bundle, and say what differs",
		Long: `Verifies as OPA does, and refuses a signature that has ended. With several keys
one must have signed.

Exit status: 0 the signature holds; 1 it does not; 2 usage, or no bundle.`,
		Example: "  assay bundle verify bundle.tar.gz --key assay.pub\n  assay bundle verify bundle.tar.gz --key old.pub --key new.pub -o json",
		Args:    cobra.ExactArgs(1),
	}
	out := outputFlag(c)
	c.Flags().StringSliceVar(&keys, "key", nil, "public key or certificate in PEM; may be repeated")
	must(c.MarkFlagRequired("key"))
	c.Flags().Var(&now, "now", "moment to verify for, instead of the clock")
	c.RunE = func(_ *cobra.Command, args []string) error {
		var parsed []*bundles.VerificationKey
		for _, name := range keys {
			text, err := a.readInput(name, maxKey)
			if err != nil {
				return err
			}
			key, err := bundles.ParseVerificationKey(text)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			parsed = append(parsed, key)
		}
		text, err := a.readInput(args[0], bundles.MaxBundle)
		if err != nil {
			return err
		}
		b, err := bundles.Verify(text, now.or(time.Now()), parsed...)
		var bad *bundles.SignatureError
		if err != nil && !errors.As(err, &bad) {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if *out == "json" {
			v := verification{Schema: schemaVerification, OK: bad == nil, Changed: []string{}, Added: []string{}, Removed: []string{}}
			if bad == nil {
				v.Revision = b.Manifest.Revision
			} else {
				v.Reason = bad.Reason
				v.Changed = append(v.Changed, bad.Changed...)
				v.Added = append(v.Added, bad.Added...)
				v.Removed = append(v.Removed, bad.Removed...)
			}
			if err := writeJSON(a.out, v); err != nil {
				return err
			}
		} else if bad == nil {
			fmt.Fprintf(a.out, "%s %s: the signature holds; revision %s\n", a.paint(a.out, green, "ok"), args[0], printable(b.Manifest.Revision))
		} else {
			lines := []string{}
			if bad.Reason != "" {
				lines = append(lines, "  "+printable(bad.Reason))
			}
			for _, d := range []struct {
				what  string
				files []string
			}{{"changed", bad.Changed}, {"added", bad.Added}, {"removed", bad.Removed}} {
				for _, f := range d.files {
					lines = append(lines, fmt.Sprintf("  %-8s %s", d.what, printable(f)))
				}
			}
			fmt.Fprintf(a.out, "%s %s: the signature does not hold\n%s\n", a.paint(a.out, red, "no"), args[0], strings.Join(lines, "\n"))
		}
		if bad != nil {
			return answer(exitNo)
		}
		return nil
	}
	return c
}
