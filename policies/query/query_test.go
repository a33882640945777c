package query

import (
	"fmt"
	"strings"
	"testing"
)

// show prints a node as a prefix expression.
func show(n Node) string {
	switch n := n.(type) {
	case nil:
		return "true"
	case And:
		return fmt.Sprintf("(and %s %s)", show(n.X), show(n.Y))
	case Or:
		return fmt.Sprintf("(or %s %s)", show(n.X), show(n.Y))
	case Not:
		return fmt.Sprintf("(not %s)", show(n.X))
	case Compare:
		return fmt.Sprintf("(%s %s %s)", n.Field.Name, n.Op, value(n.Field, n.Value))
	case In:
		var values []string
		for _, v := range n.Values {
			values = append(values, value(n.Field, v))
		}
		return fmt.Sprintf("(%s in %v %s)", n.Field.Name, !n.Negated, strings.Join(values, " "))
	}
	return "?"
}

func value(f Field, v Value) string {
	switch {
	case f.Type == Number:
		return v.Number
	case f.Type == Bool:
		return fmt.Sprint(v.Bool)
	case f.Type == Time:
		return v.Time.UTC().Format("2006-01-02T15:04:05Z")
	case v.Wildcard:
		return "~" + v.Text
	}
	return v.Text
}

var substitutions = map[string][]string{"hosts": {"a", "b*"}}

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "true",
		" \n ":                   "true",
		`registry = "quay.io/x"`: "(registry = quay.io/x)",
		`"registry"='quay.io/x'`: "(registry = quay.io/x)",
		"result=Fail AND repository != node or tag<v3":              "(or (and (result = Fail) (repository != node)) (tag < v3))",
		"not result = Fail and NOT NOT kev = true":                  "(and (not (result = Fail)) (kev = true))",
		"NOT (result = Fail OR result = Warn)":                      "(not (or (result = Fail) (result = Warn)))",
		"max_cvss_score >= 7.0 AND epss < .5":                       "(and (max_cvss_score >= 7) (epss < 0.5))",
		`max_cvss_score > "9"`:                                      "(max_cvss_score > 9)",
		`cve IN {"CVE-2021-*", CVE-2022-1}`:                         "(cve in true ~CVE-2021-* CVE-2022-1)",
		"package notin {'log4j-core'}":                              "(package in false log4j-core)",
		"registry IN ${hosts}":                                      "(registry in true a ~b*)",
		"registry IN {x, ${hosts}}":                                 "(registry in true x a ~b*)",
		`repository = "a\"b\\c"`:                                    `(repository = a"b\c)`,
		`repository = "a*"`:                                         "(repository = a*)",
		`time > "2026-01-31T01:00:00+01:00"`:                        "(time > 2026-01-31T00:00:00Z)",
		"changed = FALSE AND namespace = prod":                      "(and (changed = false) (namespace = prod))",
		"image = registry.example.com:5000/a/b:1.2@x AND kev!=true": "(and (image = registry.example.com:5000/a/b:1.2@x) (kev != true))",
	} {
		n, err := Parse(in, substitutions)
		if err != nil {
			t.Errorf("%q: %v", in, err)
		} else if show(n) != want {
			t.Errorf("%q parses to %s, want %s", in, show(n), want)
		}
	}
	for in, offset := range map[string]int{
		"nosuch = 1": 0, "cvss = 1": 0, "result": 6, "result =": 8, "result = AND": 9, "result = Fail result = Warn": 14, "(result = Fail": 14,
		"result = Fail)": 13, "max_cvss_score = high": 17, "kev = 1": 6, "kev < true": 4, "time = now": 7, "registry IN {}": 13, "registry IN {a b}": 15,
		"registry IN ${nosuch}": 12, "registry = ${hosts}": 11, "registry IN {a,}": 15, `registry = "a`: 11, "registry ! a": 9, "registry = é": 11, "AND": 0, "NOT": 3, "${hosts}": 0, "registry IN ${hosts": 12,
	} {
		_, err := Parse(in, substitutions)
		if err == nil {
			t.Errorf("%q is accepted", in)
		} else if err.Offset != offset {
			t.Errorf("%q: offset %d, want %d (%s)", in, err.Offset, offset, err.Message)
		}
	}
}

func TestParseBounds(t *testing.T) {
	for _, s := range []string{strings.Repeat("(", MaxLength), strings.Repeat("NOT ", 15000), strings.Repeat("kev=true AND ", 4000) + "kev=true", strings.Repeat(" ", MaxLength+1)} {
		if _, err := Parse(s, nil); err == nil {
			t.Errorf("%.20s… is accepted", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", `registry = "quay.io/x" AND NOT (cve IN {"CVE-*", ${hosts}} OR max_cvss_score >= 7.5)`, "time < '2026-01-31T00:00:00Z' or kev = true", "namespace NOTIN {a?c}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := Parse(s, substitutions); err != nil && (err.Offset < 0 || err.Offset > len(s) || err.Message == "") {
			t.Fatalf("%q: %+v", s, err)
		}
	})
}
