package documents

import (
	"maps"

	"github.com/assay-dev/assay/api"
)

func conditional(e api.VulnerabilityExceptionSpec) bool {
	return len(e.Packages) > 0 || e.Until != nil
}

// exceptionDocuments indexes exceptions by what they reach. Those of one key
// are kept side by side: each is in force, or not, on its own.
func exceptionDocuments(exceptions []api.VulnerabilityException) map[string]any {
	newTree := func() map[string]any {
		return map[string]any{"any": map[string]any{}, "repo": map[string]any{}, "image": map[string]any{}}
	}
	plain, cond := newTree(), newTree()
	for _, e := range exceptions {
		tree := plain
		if conditional(e.Spec) {
			tree = cond
		}
		entry, id := exceptionDocument(e), api.NormalizeID(e.Spec.CVE)
		if e.Spec.Scope == api.ScopeAny {
			appendTo(tree["any"].(map[string]any), id, entry)
			continue
		}
		for _, key := range ExceptionKeys(e.Spec) {
			sub := tree[e.Spec.Scope].(map[string]any)
			byID, ok := sub[key].(map[string]any)
			if !ok {
				byID = map[string]any{}
				sub[key] = byID
			}
			appendTo(byID, id, maps.Clone(entry))
		}
	}
	return map[string]any{"plain": plain, "conditional": cond}
}

func appendTo(m map[string]any, key string, entry any) {
	list, _ := m[key].([]any)
	m[key] = append(list, entry)
}

// ExceptionKeys are the names that an exception reaches: the repository's name
// for ScopeRepo; name:tag and name@digest for ScopeImage; none for ScopeAny.
func ExceptionKeys(e api.VulnerabilityExceptionSpec) []string {
	name, err := api.NormalizedName(e.Registry, e.Repository)
	if err != nil || e.Scope == api.ScopeAny {
		return nil
	}
	if e.Scope == api.ScopeRepo {
		return []string{name}
	}
	var keys []string
	for _, tag := range e.Tags {
		keys = append(keys, name+":"+tag)
	}
	if e.Digest != "" {
		keys = append(keys, name+"@"+e.Digest)
	}
	return keys
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
