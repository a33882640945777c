// Package capabilities says which built-in functions of OPA the Rego of users may call.
package capabilities

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// reaching are functions that leave the evaluation, or take memory without a bound that
// a deadline could hold: no Rego may call them.
var reaching = map[string]string{
	"http.send":          "policies have no access to the network",
	"net.lookup_ip_addr": "policies have no access to the network",
	// A schema may refer to file:// and http://.
	"json.match_schema":  "a schema can name files and URLs, and policies have no access to them",
	"json.verify_schema": "a schema can name files and URLs, and policies have no access to them",
	"opa.runtime":        "policies have no access to the environment",
	"net.cidr_expand":    "a network can have more addresses than there is memory",
	"bits.lsh":           "a number can have more digits than there is memory",
	// {{range 1000000000}}.
	"strings.render_template": "a template can write more than there is memory",
}

// changing are functions whose value is another one the next time: a verdict must depend
// on its input and data alone, so that every surface gives the same one at any time.
var changing = map[string]string{
	"time.now_ns":                                            "policies take the time from input.now",
	"io.jwt.decode_verify":                                   "it reads the clock, and policies take the time from input.now",
	"io.jwt.encode_sign":                                     "the verdict of a policy must not depend on chance",
	"io.jwt.encode_sign_raw":                                 "the verdict of a policy must not depend on chance",
	"crypto.x509.parse_and_verify_certificates":              "it reads the clock, and policies take the time from input.now",
	"crypto.x509.parse_and_verify_certificates_with_options": "it reads the clock, and policies take the time from input.now",
	"rand.intn":                                              "the verdict of a policy must not depend on chance",
	"uuid.rfc4122":                                           "the verdict of a policy must not depend on chance",
}

// Withheld says why a policy may not call a function; "" when it may.
func Withheld(name string) string {
	if why := changing[name]; why != "" {
		return why
	}
	return reaching[name]
}

// OfPolicies are those of the linked OPA without what is withheld from policies, and
// without any network host.
func OfPolicies() *ast.Capabilities { return without(reaching, changing) }

// OfPrograms are for bundles, which may come from elsewhere, and for the tests of policies:
// as [OfPolicies], with the functions whose value changes.
func OfPrograms() *ast.Capabilities { return without(reaching) }

func without(lists ...map[string]string) *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		return slices.ContainsFunc(lists, func(l map[string]string) bool { return l[b.Name] != "" })
	})
	c.AllowNet = []string{}
	return c
}
