package query

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
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

var substitutions = map[string][]string{"hosts": {"a", "", "b*"}, "none": {"", ""}, "twice": {"a"}, "TWICE": {"b"}}

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "true",
		" \n ":                   "true",
		`registry = "quay.io/x"`: "(registry = quay.io/x)",
		`"registry"='quay.io/x'`: "(registry = quay.io/x)",
		"result=Fail AND repository != node or tag<v3": "(or (and (result = Fail) (repository != node)) (tag < v3))",
		"not result = Fail and NOT NOT kev = true":     "(and (not (result = Fail)) (kev = true))",
		"NOT (result = Fail OR result = Warn)":         "(not (or (result = Fail) (result = Warn)))",
		"max_cvss_score >= 7.0 AND epss < .5":          "(and (max_cvss_score >= 7) (epss < 0.5))",
		`max_cvss_score > "9"`:                         "(max_cvss_score > 9)",
		`cve IN {"CVE-2021-*", 'CVE-2022-1'}`:          "(cve in true ~CVE-2021-* CVE-2022-1)",
		"package notin {'log4j-core'}":                 "(package in false log4j-core)",
		"registry IN ${hosts}":                         "(registry in true a ~b*)",
		"registry IN {x, ${hosts}}":                    "(registry in true x a ~b*)",
		`repository = "a\"b\\c"`:                       `(repository = a"b\c)`,
		`repository = "a*"`:                            "(repository = a*)",
		`time > "2026-01-31T01:00:00+01:00"`:           "(time > 2026-01-31T00:00:00Z)",
		"changed = FALSE AND namespace = prod":         "(and (changed = false) (namespace = prod))",
		"tag = v1_2 AND kev!=true":                     "(and (tag = v1_2) (kev != true))",
		// As in Calico.
		"tag = AND or tag=in":                                        "(or (tag = AND) (tag = in))",
		"cve IN {not, and}":                                          "(cve in true not and)",
		"kev = true && tag = x || ! tag = y":                         "(or (and (kev = true) (tag = x)) (not (tag = y)))",
		"tag ! = x AND max_cvss_score > = 7":                         "(and (tag != x) (max_cvss_score >= 7))",
		"image_tag = v1 AND \"cluster_name\" = east":                 "(and (tag = v1) (cluster = east))",
		"tag = é_1 // not v2\n AND /* the\n rest */ kev = true":      "(and (tag = é_1) (kev = true))",
		"registry NOTIN ${HOSTS}":                                    "(registry in false a ~b*)",
		`tag = "\x41\u00e9\n" AND tag = 'a"b' AND tag = ` + "`a\\b`": "(and (and (tag = Aé\n) (tag = a\"b)) (tag = a\\b))",
		"NOT tag EMPTY OR epss empty":                                "(or (not (tag in false ~*)) (not (epss >= 0)))",
		"cve EMPTY AND pod EMPTY":                                    "(and (cve in false ~*) (pod in false ~*))",
		"tag = 1.27 AND tag = 7":                                     "(and (tag = 1.27) (tag = 7))",
		"time >= '2026-01-31'":                                       "(time >= 2026-01-31T00:00:00Z)",
		"previous_result = '' or result < 'M'":                       "(or (previous_result = ) (result < M))",
		`image_tag IN {"v1", "v2*"} AND node_name = n1`:              "(and (tag in true v1 ~v2*) (node = n1))",
		"type = pod_detection AND NOT type IN {'image_*'}":           "(and (type = pod_detection) (not (type in true ~image_*)))",
		"image_tag NOTIN {v1} AND cluster_name EMPTY":                "(and (tag in false v1) (cluster in false ~*))",
		"tag IN {7, .5, 1., 2e3}":                                    "(tag in true 7 .5 1. 2e3)",
		"max_cvss_score IN {7, 8.50, 1e1}":                           "(max_cvss_score in true 7 8.5 10)",
	} {
		n, err := Parse(in, substitutions)
		if err != nil {
			t.Errorf("%q: %v", in, err)
		} else if show(n) != want {
			t.Errorf("%q parses to %s, want %s", in, show(n), want)
		}
	}
	for in, offset := range map[string]int{
		"nosuch = 1": 0, "cvss = 1": 0, "result": 6, "result =": 8, "result = AND": 9, "tag =": 5, "tag = (": 6, "result = Fail result = Warn": 14, "(result = Fail": 14,
		"result = Fail)": 13, "max_cvss_score = high": 17, "kev = 1": 6, "kev < true": 4, "time = now": 7, "registry IN {}": 13, "registry IN {a b}": 15,
		"registry IN ${nosuch}": 12, "registry = ${hosts}": 11, "registry IN {a,}": 15, `registry = "a`: 11, "registry ! a": 9, "! (": 3, "kev = true &": 11, "registry = §": 11, `registry = "a\qb"`: 13, "registry = `a": 11, "registry = \"\\xff\"": 11, "/* x": 0, "kev EMPTY": 4, "time empty": 5, "result = Failed": 9, "previous_result != fail": 19, "epss > 50": 7, "max_cvss_score = 0x7": 17, "max_cvss_score < -1": 17, "tag EMPTY EMPTY": 10, "tag = &&": 6, "registry IN ${none}": 12, "registry IN ${Twice}": 12, "registry IN (a)": 12, "tag a": 4, "AND": 0, "NOT": 3, "${hosts}": 0, "registry IN ${hosts": 12,
	} {
		_, err := Parse(in, substitutions)
		if err == nil {
			t.Errorf("%q is accepted", in)
		} else if err.Offset != offset {
			t.Errorf("%q: offset %d, want %d (%s)", in, err.Offset, offset, err.Message)
		}
	}
}

// What Calico's validator refuses of its own names, and its parser of values without quotes, is refused with what to do.
func TestAsCalicoRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"image_tag != v1":             "offset 10: image_tag takes = and IN only, as in Calico; tag takes every comparison",
		"cluster_name > a":            "offset 13: cluster_name takes = and IN only, as in Calico; cluster takes every comparison",
		"node_name <= a":              "offset 10: node_name takes = and IN only, as in Calico; node takes every comparison",
		"type != pod_detection":       "offset 5: type takes = and IN only, as in Calico",
		"type = pod":                  `offset 7: type is image_detection or pod_detection, not "pod"`,
		"tag IN {b*, ?c}":             `offset 8: put "b*" in quotes: what has none is letters, digits and _, or a number`,
		"tag IN {b, ?c}":              `offset 11: put "?c" in quotes: what has none is letters, digits and _, or a number`,
		"tag = b.c":                   `offset 6: put "b.c" in quotes: what has none is letters, digits and _, or a number`,
		"cve = CVE-2021-44228":        `offset 6: put "CVE-2021-44228" in quotes: what has none is letters, digits and _, or a number`,
		"tag = 1.2.3 AND kev = true":  `offset 6: put "1.2.3" in quotes: what has none is letters, digits and _, or a number`,
		"tag = 7a":                    `offset 6: put "7a" in quotes: what has none is letters, digits and _, or a number`,
		"max_cvss_score > -1":         `offset 17: put "-1" in quotes: what has none is letters, digits and _, or a number`,
		"time > 2026-01-31":           `offset 7: put "2026-01-31" in quotes: what has none is letters, digits and _, or a number`,
		"registry = quay.io/tigera":   `offset 11: put "quay.io/tigera" in quotes: what has none is letters, digits and _, or a number`,
		"registry = registry:5000/é*": `offset 11: put "registry:5000/é*" in quotes: what has none is letters, digits and _, or a number`,
	} {
		_, err := Parse(in, nil)
		if err == nil {
			t.Errorf("%q is accepted", in)
		} else if err.Error() != want {
			t.Errorf("%q: %s\nwant %s", in, err, want)
		}
	}
}

func TestParseBounds(t *testing.T) {
	for _, s := range []string{strings.Repeat("(", MaxLength), strings.Repeat("NOT ", 15000), strings.Repeat("NOT (", 12000), "tag IN {" + strings.Repeat("a,", MaxValues) + "a}", strings.Repeat("(", MaxDepth+1) + "kev=true" + strings.Repeat(")", MaxDepth+1), strings.Repeat("kev=true AND ", 4000) + "kev=true", strings.Repeat(" ", MaxLength+1)} {
		if _, err := Parse(s, nil); err == nil {
			t.Errorf("%.20s… is accepted", s)
		}
	}
}

func TestParseAtTheBounds(t *testing.T) {
	for _, s := range []string{
		strings.Repeat("kev=true AND ", MaxTerms-1) + "kev=true", strings.Repeat("(", MaxDepth) + "kev=true" + strings.Repeat(")", MaxDepth), strings.Repeat("!", MaxLength-8) + "kev=true",
		"tag IN {" + strings.Repeat("a,", MaxValues-1) + "a}",
	} {
		if _, err := Parse(s, nil); err != nil {
			t.Errorf("%.20s…: %v", s, err)
		}
	}
}

func TestUnknownField(t *testing.T) {
	for name, want := range map[string]string{
		"registyr": "registry", "results": "result", "max_cvs_score": "max_cvss_score", "cvss": "max_cvss_score", "CVE": "cve", "repo": "repository", "xyzzy": "", strings.Repeat("x", 5000): "",
	} {
		_, err := Parse(name+" = x", nil)
		if err == nil {
			t.Errorf("%.20s is known", name)
			continue
		}
		if hinted := strings.Contains(err.Message, "did you mean "); hinted != (want != "") || !strings.Contains(err.Message, want) || !strings.Contains(err.Message, "known are changed, cluster") {
			t.Errorf("%.20s: %s, want %q", name, err.Message, want)
		}
	}
}

// The tables of names stay in step with the data set.
func TestFieldsAreThoseOfAnEvent(t *testing.T) {
	want := map[string]bool{}
	for _, typ := range []reflect.Type{reflect.TypeFor[api.Event](), reflect.TypeFor[api.Instance]()} {
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			want[name] = true
		}
	}
	delete(want, "instances")
	for _, f := range Fields() {
		if !want[f.Name] {
			t.Errorf("%s is no field of an event", f.Name)
		}
		delete(want, f.Name)
	}
	for name := range want {
		t.Errorf("%s is missing", name)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", `registry = "quay.io/x" AND NOT (cve IN {"CVE-*", ${hosts}} OR max_cvss_score >= 7.5)`, "time < '2026-01-31T00:00:00Z' or kev = true", "namespace NOTIN {a?c}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := Parse(s, substitutions)
		if again, _ := Parse("("+s+"\n)", substitutions); err == nil && n != nil && show(again) != show(n) {
			t.Fatalf("%q means %s, and %s in parentheses", s, show(n), show(again))
		}
		if err != nil && (err.Offset < 0 || err.Offset > len(s) || err.Message == "") {
			t.Fatalf("%q: %+v", s, err)
		}
	})
}
