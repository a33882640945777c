package documents

import (
	"cmp"
	"slices"

	"github.com/assay-dev/assay/api"
)

func conditional(e api.VulnerabilityExceptionSpec) bool {
	return len(e.Packages) > 0 || e.Until != nil
}

// exceptionDocuments indexes exceptions by what they reach. Those of one key
// are kept side by side: each is in force, or not, on its own.
func exceptionDocuments(exceptions []api.VulnerabilityException) map[string]any {
	plain, cond, keys, ends := map[string]any{}, map[string]any{}, map[string]any{}, map[string]any{}
	for _, e := range exceptions {
		tree := plain
		if conditional(e.Spec) {
			tree = cond
		}
		name, reach := ExceptionKeys(e.Spec)
		for _, key := range reach {
			byID, ok := tree[key].(map[string]any)
			if !ok {
				byID = map[string]any{}
				tree[key] = byID
			}
			id := api.NormalizeID(e.Spec.CVE)
			list, _ := byID[id].([]any)
			entry := exceptionDocument(e)
			byID[id] = append(list, entry)
			if !conditional(e.Spec) {
				latest(ends, key, id, entry)
			}
			if known, _ := keys[name].([]any); key != AnyKey && !slices.Contains(known, any(key)) {
				keys[name] = append(known, key)
			}
		}
	}
	for _, list := range keys {
		slices.SortFunc(list.([]any), func(a, b any) int { return cmp.Compare(a.(string), b.(string)) })
	}
	return map[string]any{"plain": plain, "conditional": cond, "keys": keys, "ends": ends}
}

// Never is the end of what has none: after every moment, as text.
const Never = "9999-12-31T23:59:59.999999999Z"

// latest keeps for a key and id the end of the exception that lasts longest. Those
// without conditions have no beginning, so one of them is in force until then.
func latest(ends map[string]any, key, id string, entry map[string]any) {
	byID, ok := ends[key].(map[string]any)
	if !ok {
		byID = map[string]any{}
		ends[key] = byID
	}
	end, ok := entry["expires"].(string)
	if !ok {
		end = Never
	}
	if known, ok := byID[id].(string); !ok || known < end {
		byID[id] = end
	}
}

// AnyKey is the key of exceptions that reach every image; no repository has this name.
const AnyKey = "*"

// ExceptionKeys are the keys under which an exception is found, and the
// repository's name: AnyKey for ScopeAny; the name for ScopeRepo; name:tag and
// name@digest for ScopeImage.
func ExceptionKeys(e api.VulnerabilityExceptionSpec) (name string, keys []string) {
	if e.Scope == api.ScopeAny {
		return "", []string{AnyKey}
	}
	name, err := api.NormalizedName(e.Registry, e.Repository)
	if err != nil {
		return "", nil
	}
	if e.Scope == api.ScopeRepo {
		return name, []string{name}
	}
	for _, tag := range e.Tags {
		keys = append(keys, name+":"+tag)
	}
	if e.Digest != "" {
		keys = append(keys, name+"@"+e.Digest)
	}
	return name, keys
}

func exceptionDocument(e api.VulnerabilityException) map[string]any {
	doc := map[string]any{
		"name":          e.Metadata.Name,
		"scope":         e.Spec.Scope,
		"justification": e.Spec.Justification,
	}
	if e.Spec.Author != "" {
		doc["author"] = e.Spec.Author
	}
	if t, ok := moment(e.Spec.Expires); ok {
		doc["expires"] = Time(t)
	} else if e.Spec.Expires != "" {
		doc["expires"] = "" // an end that cannot be read has passed
	}
	if u := e.Spec.Until; u != nil {
		until := map[string]any{"fixable": u.Fixable, "kev": u.KEV}
		if u.CVSSAbove != nil {
			until["cvss"] = number(*u.CVSSAbove)
		}
		if u.EPSSAbove != nil {
			until["epss"] = number(*u.EPSSAbove)
		}
		doc["until"] = until
	}
	if len(e.Spec.Packages) > 0 {
		packages := []any{}
		for _, p := range e.Spec.Packages {
			if name, version, err := ParsePURL(p); err == nil {
				packages = append(packages, map[string]any{"package": name, "version": version})
			}
		}
		doc["packages"] = packages
	}
	return doc
}
