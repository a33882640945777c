package main

import (
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/intake"
)

// There is one command: any word beside its flags is refused.
func TestUnknownWords(t *testing.T) {
	if command().HasSubCommands() {
		t.Error("there are commands below it, which must refuse what is none of them")
	}
	for _, args := range [][]string{{"srve"}, {"help"}, {"--policies", "policies", "serve"}, {"--nosuch"}} {
		if code := run(t.Context(), args); code != 2 {
			t.Errorf("%q: exit status %d", args, code)
		}
	}
}

// What the registration requires of namespaces is guarded, so that nobody labels himself out of it.
func TestNamespaceSelectorIsGuarded(t *testing.T) {
	f := flags{folder: source.Folder{Path: t.TempDir()}, kubeconfig: "none", cert: "tls.crt", key: "tls.key", failurePolicy: "Fail", tooOld: "warn", maxInFlight: 1,
		connections: intake.Limits{Total: 1, PerClient: 1, Arrive: time.Second}, guardedLabels: []string{"mine"}, namespaces: "team, env in (a,b)"}
	c, err := f.config(slog.New(slog.DiscardHandler), io.Discard)
	if err != nil || !slices.Equal(c.GuardedLabels, []string{"mine", "env", "team"}) && !slices.Equal(c.GuardedLabels, []string{"mine", "team", "env"}) || len(c.Namespaces) != 2 {
		t.Errorf("%v: %v %v", err, c.GuardedLabels, c.Namespaces)
	}
	f.namespaces = "team in"
	if _, err := f.config(slog.New(slog.DiscardHandler), io.Discard); err == nil || !strings.Contains(err.Error(), "--namespace-selector: ") {
		t.Error(err)
	}
}

// A variable that stands for no flag stops the start, before a file is read.
func TestUnknownVariables(t *testing.T) {
	t.Setenv("ASSAY_WEBHOOK_FAILURE_POLICYS", "Fail")
	t.Setenv("ASSAY_WEBHOOK_SERVICE_HOST", "10.0.0.1") // of the Service assay-webhook
	c := command()
	c.SetArgs([]string{"--policies", t.TempDir()})
	c.SetOut(io.Discard)
	c.SetErr(io.Discard)
	err := c.ExecuteContext(t.Context())
	if err == nil || err.Error() != "ASSAY_WEBHOOK_FAILURE_POLICYS stands for no flag of assay-webhook; did you mean ASSAY_WEBHOOK_FAILURE_POLICY?" {
		t.Errorf("%v", err)
	}
}
