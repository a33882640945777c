package console

import (
	"fmt"
	"html/template"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/assay-dev/assay/api"
)

func (c *Console) functions() template.FuncMap {
	return template.FuncMap{
		"since":    func(s string) string { return since(c.Now(), s) },
		"moment":   moment,
		"score":    score,
		"percent":  percent,
		"short":    short,
		"plain":    plain,
		"clip":     cut,
		"class":    class,
		"imageURL": imageURL,
		"cveURL":   func(id string) string { return "/vulnerabilities/" + url.PathEscape(id) },
		"query":    func(path string, pairs ...string) string { return withQuery(path, pairs...) },
		"count":    count,
		"plural":   plural,
		"join":     strings.Join,
		"advisory": advisory,
		"chart":    func(label string, bars []bar, total int) chart { return chart{label, bars, total} },
		"entry":    func(p *page, name, to, text string) entry { return entry{to, text, p.Nav == name} },
	}
}

func withQuery(path string, pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

func imageURL(image, digest string) string {
	return withQuery("/images/"+url.PathEscape(digest), "reference", image)
}

// moment is a time with its zone.
func moment(v any) string {
	t, ok := timeOf(v)
	if !ok {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

func timeOf(v any) (time.Time, bool) {
	switch v := v.(type) {
	case time.Time:
		return v, !v.IsZero()
	case *time.Time:
		if v == nil {
			return time.Time{}, false
		}
		return *v, !v.IsZero()
	case string:
		t, err := time.Parse(time.RFC3339, v)
		if err != nil {
			t, err = time.Parse(time.DateOnly, v)
		}
		return t, err == nil
	}
	return time.Time{}, false
}

// since words how long ago, or in what time, a moment is.
func since(now time.Time, text string) string {
	t, ok := timeOf(text)
	if !ok {
		return ""
	}
	d := now.Sub(t)
	word := func(d time.Duration) string {
		for _, u := range []struct {
			unit time.Duration
			name string
		}{{365 * 24 * time.Hour, "year"}, {30 * 24 * time.Hour, "month"}, {24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
			if d >= u.unit {
				return plural(int(d/u.unit), u.name)
			}
		}
		return "moments"
	}
	if d < 0 {
		return "in " + word(-d)
	}
	return word(d) + " ago"
}

// score is a CVSS score, blank where there is none.
func score(f *float64) string {
	if f == nil {
		return ""
	}
	return strconv.FormatFloat(*f, 'f', 1, 64)
}

// percent is a probability.
func percent(f *float64) string {
	if f == nil {
		return ""
	}
	p := *f * 100
	switch {
	case p >= 10:
		return strconv.FormatFloat(p, 'f', 0, 64) + " %"
	case p >= 0.1:
		return strconv.FormatFloat(p, 'f', 1, 64) + " %"
	default:
		return "< 0.1 %"
	}
}

// short is a digest in as many characters as people compare.
func short(digest string) string {
	name, hex, ok := strings.Cut(digest, ":")
	if !ok || len(hex) < 12 {
		return digest
	}
	return name + ":" + hex[:12]
}

// plain is a text of somebody else's without what would turn or hide the text beside it:
// controls, and marks of direction.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == 0xFEFF || r == 0x200B {
			return '\uFFFD'
		}
		return r
	}, s)
}

// class is that of a result or severity.
func class(v any) string {
	switch strings.ToLower(fmt.Sprint(v)) {
	case "pass", "warn", "fail", "unknown", "critical", "high", "medium", "low", "negligible":
		return strings.ToLower(fmt.Sprint(v))
	}
	return "unknown"
}

// count groups the digits of a number.
func count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(n) + " " + noun + "s"
}

// bar is a part of a whole, for a chart.
type bar struct {
	Result api.Result
	Count  int
	// X and Width are in hundredths of a percent of the whole.
	X, Width int
	Link     string
}

// bars lays the numbers of images by result side by side.
func bars(counts map[api.Result]int, path string, more ...string) (out []bar, total int) {
	order := []api.Result{api.Fail, api.Unknown, api.Warned, api.Pass}
	for _, r := range order {
		total += counts[r]
	}
	x := 0
	for _, r := range order {
		w := 0
		if total > 0 {
			w = int(math.Round(10_000 * float64(counts[r]) / float64(total)))
		}
		w = min(w, 10_000-x)
		out = append(out, bar{r, counts[r], x, w, withQuery(path, append([]string{"result", string(r)}, more...)...)})
		x += w
	}
	return out, total
}

// chart is a bar of parts, with the numbers beside it.
type chart struct {
	Label string
	Bars  []bar
	Total int
}

// entry is one of the menu.
type entry struct {
	To, Text string
	Here     bool
}

var (
	cveID  = regexp.MustCompile(`^CVE-\d{4}-\d{4,19}$`)
	ghsaID = regexp.MustCompile(`^GHSA(-[0-9a-z]{4}){3}$`)
)

// advisory is where the full text of a vulnerability stands.
func advisory(id string) string {
	switch {
	case cveID.MatchString(id):
		return "https://nvd.nist.gov/vuln/detail/" + id
	case ghsaID.MatchString(id):
		return "https://github.com/advisories/" + id
	}
	return ""
}
