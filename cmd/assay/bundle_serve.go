package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/bundles/source/gitrepo"
	"github.com/assay-dev/assay/policies"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) bundleServe() *cobra.Command {
	var (
		in     inputs
		config serve.Config
		git    gitrepo.Source
		sign   signing
		listen string
	)
	c := &cobra.Command{
		Use:   "serve [DIR]",
		Short: "Serve bundles to OPA, and keep them up to date",
		Long: `Compiles a policies folder, with scans and exceptions, and serves its parts as
bundles with ETag and long polling, as OPA's bundle plugin follows them:
/bundles/policies, /bundles/exceptions, /bundles/names, and /bundles/images-00 to
/bundles/images-15, so that one scan moves a sixteenth of the images. /bundles/head
says which belong together and of when they are, and is renewed each minute. The files
are watched; a state with faults is logged, and the last good one stays. --git
takes the policies from a repository instead, --bundle serves files that were
built and signed elsewhere. docs/bundles.md has OPA's configuration.`,
		Example: `  assay bundle serve policies --scans scans.json --sign-key assay.key --token-file token
  assay bundle serve --git https://git.example.com/policies.git --git-ref main --sign-key assay.key
  assay bundle serve --bundle all=bundle.tar.gz --listen :8443 --tls-cert tls.crt --tls-key tls.key`,
		Args: cobra.MaximumNArgs(1),
	}
	out := outputFlag(c)
	c.Flags().Lookup("output").Usage = "format of the log"
	in.flags(c)
	must(c.Flags().MarkHidden("policies"))
	sign.flags(c, "sign-")
	c.Flags().StringToStringVar(&config.Files, "bundle", nil, "NAME=FILE serves a bundle as it is; may be repeated")
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8380", "address to serve on")
	c.Flags().StringVar(&config.Name, "name", serve.DefaultName, "name of what is served: a webhook takes no bundles of another one")
	c.Flags().DurationVar(&config.ValidFor, "valid-for", serve.DefaultValidFor, "how long data.assay.fresh admits by the bundles after they were last confirmed")
	c.Flags().StringVar(&config.CertFile, "tls-cert", "", "certificate in PEM, read anew when it changes")
	c.Flags().StringVar(&config.KeyFile, "tls-key", "", "private key of the certificate")
	c.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	c.Flags().StringVar(&config.TokenFile, "token-file", "", "bearer tokens, one a line, of which a client needs one")
	gitFlags(c.Flags(), &git)

	c.RunE = func(c *cobra.Command, args []string) error {
		config.Log = slog.New(slog.NewTextHandler(a.err, nil))
		if *out == "json" {
			config.Log = slog.New(slog.NewJSONHandler(a.err, nil))
		}
		if len(args) == 1 {
			in.policies = args[0]
		}
		switch {
		case config.Name == "" || config.ValidFor <= serve.HeadEvery:
			return fmt.Errorf("--name must not be empty, and --valid-for more than %s", serve.HeadEvery)
		case in.policies != "" && git.URL != "":
			return errors.New("policies come from a folder or from --git, not from both")
		case in.policies != "":
			config.Source = source.Folder{Path: in.policies, Options: in.options, Log: config.Log}
		case git.URL != "":
			git.Options, git.Log = in.options, config.Log
			config.Source = git
		case len(config.Files) == 0:
			return errors.New("there is nothing to serve: give a folder of policies, --git or --bundle")
		case len(in.scans)+len(in.exceptions) > 0:
			return errors.New("--scans and --exceptions need a folder of policies or --git")
		}
		config.Inputs = slices.Concat(in.scans, in.exceptions)
		config.Build = func(set *policies.Set) (map[string]*bundle.Bundle, error) { return a.built(set, in) }
		if sign.key != "" {
			key, err := a.signingKey(sign)
			if err != nil {
				return err
			}
			config.Key = key
		}
		for name := range config.Files {
			if name == bundles.PartHead || strings.HasPrefix(name, bundles.HeadOf("")+"-") {
				return fmt.Errorf("--bundle %s: the name is that of a head, which is made", name)
			}
		}
		listener, err := net.Listen("tcp", listen)
		if err != nil {
			return err
		}
		config.Listener = listener
		if at, ok := listener.Addr().(*net.TCPAddr); ok && !at.IP.IsLoopback() && config.TokenFile == "" {
			config.Log.Warn("everyone who reaches the address reads the bundles; --token-file restricts it")
		}
		if len(config.Files) > 0 && config.Key == nil {
			config.Log.Warn("the head of the bundles is not signed, so that who verifies signatures takes none; --sign-key signs it")
		}
		config.Log.Info("serving bundles", "address", listener.Addr().String(), "tls", config.CertFile != "", "signed", config.Key != nil,
			"files", slices.Sorted(maps.Keys(config.Files)))
		return serve.Run(c.Context(), config)
	}
	return c
}

// gitFlags adds those of policies in a git repository.
func gitFlags(flags *pflag.FlagSet, git *gitrepo.Source) {
	flags.StringVar(&git.URL, "git", "", "repository of the policies: https, ssh or file, without a password")
	flags.StringVar(&git.Ref, "git-ref", "", "branch, tag or commit; without it the repository's HEAD")
	flags.StringVar(&git.Folder, "git-folder", "", "folder of the policies in the repository")
	flags.DurationVar(&git.Every, "git-every", 0, "time between two looks (default 1m)")
	flags.StringVar(&git.Username, "git-user", "", "user for https (default git)")
	flags.StringVar(&git.PasswordFile, "git-password-file", "", "password or token for https")
	flags.StringVar(&git.CAFile, "git-ca", "", "further certificates to trust for https")
	flags.StringVar(&git.SSHKeyFile, "git-ssh-key", "", "private key for ssh; without it the agent")
	flags.StringVar(&git.KnownHostsFile, "git-known-hosts", "", "known hosts for ssh; without it the user's own")
}

// built makes the bundles of a set of policies with the scans and exceptions
// that the flags name.
func (a *app) built(set *policies.Set, in inputs) (map[string]*bundle.Bundle, error) {
	content := bundles.Content{Policies: set, Cluster: in.cluster, Groups: in.groups}
	var err error
	if content.Scans, err = a.readScans(in.scans); err != nil {
		return nil, err
	}
	if content.Exceptions, err = a.readExceptions(in.exceptions); err != nil {
		return nil, err
	}
	return bundles.Split(content)
}
