package documents

import (
	"cmp"
	"strings"
	"unicode"

	"github.com/assay-dev/assay/api"
)

// DigestKey is the key of a digest among the tags of a name, none of which begins so.
func DigestKey(digest string) string {
	_, digits, _ := strings.Cut(digest, ":")
	return "@" + digits
}

// FailureKeys are the keys below a name where it is told that a scan failed: by the tag and the
// digest that are known, "" where they are not.
func FailureKeys(tag, digest string) []string {
	var keys []string
	if tag != "" {
		keys = append(keys, tag)
	}
	if digest != "" {
		keys = append(keys, DigestKey(digest))
	}
	return keys
}

// maxFailure bounds the text of an error, in runes: it is the reason in a message, and every
// evaluator holds it.
const maxFailure = 200

// Failure is the member "failed" of a document at [NamePath]: when a scan failed, as [Time]
// writes it, and why, in one line.
func Failure(at, text string) map[string]any {
	return map[string]any{"at": at, "error": oneLine(text, maxFailure)}
}

// oneLine is a text of others for a message: without line ends and controls, of most runes.
func oneLine(text string, most int) string {
	if cut := 4 * 4 * most; len(text) > cut { // whatever comes after is not read
		text = text[:cut]
	}
	line := strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if r := []rune(line); len(r) > most {
		line = string(r[:most-1]) + "…"
	}
	return line
}

// AddFailure adds a failure to the document of a tag, which may be nil: it is not told where
// the tag was seen later, since it is of what the tag led to before. Both have the moment "at".
func AddFailure(observed, failure map[string]any) map[string]any {
	if observed == nil {
		return map[string]any{"failed": failure}
	}
	seen, _ := observed["at"].(string)
	if at, _ := failure["at"].(string); at >= seen {
		observed["failed"] = failure
	}
	return observed
}

// addFailures adds that the last scan of a scope under a name, by tag or digest, failed.
func addFailures(data map[string]any, scans []api.Scan) {
	type key struct {
		scope     api.Scope
		name, key string
	}
	last := map[key]api.Scan{}
	var order []key
	for _, s := range scans {
		ref, err := api.ParseReference(s.Image)
		if err != nil || !s.Scope.AllowsName(ref.Name()) {
			continue
		}
		tag := ref.Tag
		if ref.Digest != "" {
			tag = ""
		}
		for _, at := range FailureKeys(tag, cmp.Or(s.Digest, ref.Digest)) {
			k := key{s.Scope.Evidence(), ref.Name(), at}
			old, known := last[k]
			if !known {
				order = append(order, k)
			}
			if !known || !s.FoundAt().Before(old.FoundAt()) {
				last[k] = s
			}
		}
	}
	newest := map[string]string{} // of the failures at a path, when the one that is told was
	for _, k := range order {
		s := last[k]
		if s.Error == "" {
			continue
		}
		path := NamePath(EvidenceSpace(k.scope), k.name, k.key)
		at := Time(s.FoundAt())
		if told := strings.Join(path, "\x00"); at >= newest[told] {
			newest[told] = at
			observed, _ := lookUp(data, path).(map[string]any)
			if with := AddFailure(observed, Failure(at, s.Error)); observed == nil {
				put(data, path, with)
			}
		}
	}
}

// lookUp is the document at a path, nil where there is none.
func lookUp(m map[string]any, path []string) any {
	var document any = m
	for _, key := range path {
		object, _ := document.(map[string]any)
		document = object[key]
	}
	return document
}
