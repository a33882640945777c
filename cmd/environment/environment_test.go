package environment_test

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/assay-dev/assay/cmd/environment"
)

func TestUnknown(t *testing.T) {
	c := &cobra.Command{Use: "serve"}
	for _, flag := range []string{"listen", "oidc-audience", "exceptions-need-approval", "output"} {
		c.Flags().String(flag, "", "")
	}
	for entry, want := range map[string]string{
		"ASSAY_SERVE_LISTEN=:8443":                              "",
		"ASSAY_SERVE_OIDC_AUDIENCE=assay":                       "",
		"ASSAY_SERVE_OIDC_AUDIENC=assay":                        "ASSAY_SERVE_OIDC_AUDIENC stands for no flag of serve; did you mean ASSAY_SERVE_OIDC_AUDIENCE?",
		"ASSAY_SERVE_EXCEPTION_NEED_APPROVAL=hunter2":           "did you mean ASSAY_SERVE_EXCEPTIONS_NEED_APPROVAL?",
		"ASSAY_SERVE_NOTHING=":                                  "'unset ASSAY_SERVE_NOTHING' takes it away",
		"ASSAY_SERVE_=x":                                        "ASSAY_SERVE_ stands for no flag",
		"ASSAY_SERVER=x":                                        "",
		"PATH=/bin":                                             "",
		"ASSAY_SERVE_SERVICE_HOST=10.0.0.1":                     "", // of the Service assay-serve
		"ASSAY_SERVE_SERVICE_HOST=fd00::1":                      "",
		"ASSAY_SERVE_SERVICE_PORT=443":                          "",
		"ASSAY_SERVE_SERVICE_PORT_HTTPS=443":                    "",
		"ASSAY_SERVE_PORT=tcp://10.0.0.1:443":                   "",
		"ASSAY_SERVE_PORT_443_TCP=tcp://10.0.0.1:443":           "",
		"ASSAY_SERVE_PORT_443_TCP_PROTO=tcp":                    "",
		"ASSAY_SERVE_PORT_443_TCP_PORT=443":                     "",
		"ASSAY_SERVE_PORT_443_TCP_ADDR=10.0.0.1":                "",
		"ASSAY_SERVE_METRICS_SERVICE_HOST=10.0.0.1":             "", // of assay-serve-metrics
		"ASSAY_SERVE_METRICS_PORT_9090_TCP=tcp://10.0.0.1:9090": "",
		"ASSAY_SERVE_PORT=8443":                                 "ASSAY_SERVE_PORT stands for no flag", // a person wrote it
		"ASSAY_SERVE_SERVICE_HOST=example.com; rm -rf":          "ASSAY_SERVE_SERVICE_HOST stands for no flag",
	} {
		err := environment.Unknown(c, "ASSAY_SERVE_", []string{"HOME=/", entry})
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", entry, err, want)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: the value is in %v", entry, err)
		}
	}
	err := environment.Unknown(c, "ASSAY_SERVE_", []string{"ASSAY_SERVE_B=1", "ASSAY_SERVE_A=1"})
	if err == nil || strings.Count(err.Error(), "stands for no flag") != 2 || !strings.HasPrefix(err.Error(), "ASSAY_SERVE_A ") {
		t.Errorf("two of them: %v", err)
	}
}
