// Package documents turns scans and exceptions into the data documents that
// every evaluator reads: the embedded engine, a bundle, and stock OPA. The
// layout, measured in docs/design/002-evaluator.md, is below data.assay:
//
//	images[shard][digest]      {"at", "db", "ids", "s"}: the scored CVEs, highest first;
//	                           "a": the other ids of those CVEs that have some;
//	                           "db": when the vulnerability database was built, "" if not known
//	details[shard][digest]     cve → members, where a criterion needs more than the score
//	names[name][tag]           {"digest", "at"}: the newest observation of a tag
//	indexes[digest]            {"platforms": {"linux/amd64": digest}}
//	exceptions.plain           [key][id] → a list; a key is "*", name, name:tag or name@digest
//	exceptions.conditional     the same, for those with packages or until
//	exceptions.ends            [key][id] → when the last of the plain ones ends
//	exceptions.keys            [name] → the keys of both that begin with the name
//	revisions                  {bundle: revision}: what a decision can be reproduced from
//
// A shard is the first two hexadecimal digits of the digest. Times are text of
// fixed width in UTC (see [Time]), so that they compare as text.
package documents

import (
	"cmp"
	"fmt"
	"strconv"
	"time"

	"github.com/assay-dev/assay/api"
)

// Time writes t in UTC with fixed width: such texts compare as the moments do.
func Time(t time.Time) string { return t.UTC().Format(api.TimeLayout) }

// Shard is the key of a digest's shard: "ab" for "sha256:ab…".
func Shard(digest string) string {
	const prefix = len("sha256:")
	if len(digest) < prefix+2 {
		return "00"
	}
	return digest[prefix : prefix+2]
}

// ImageParts is the number of parts that images are split into for those who follow
// them, each of the shards whose names begin with one hexadecimal digit.
const ImageParts = 16

// ImagePart is the name of the part of a digest: "images-10" for "sha256:ab…".
func ImagePart(digest string) string {
	n, err := strconv.ParseUint(Shard(digest)[:1], 16, 8)
	if err != nil {
		n = 0
	}
	return fmt.Sprintf("images-%02d", n)
}

// Needs says which groups of an image get details.
type Needs struct {
	// All is set when a threshold switch looks at more than the score.
	All bool
	// IDs are the vulnerabilities that conditional exceptions name.
	IDs map[string]bool
}

// NeedsOf derives what thresholds and exceptions look at.
func NeedsOf(t api.ThresholdsSpec, exceptions []api.VulnerabilityException) Needs {
	n := Needs{
		All: t.ScoreBySeverity || t.FailOnKEV || t.FailOnEPSS != nil || t.OnlyFixable || t.Grace != nil,
		IDs: map[string]bool{},
	}
	for _, e := range exceptions {
		if conditional(e.Spec) {
			n.IDs[api.NormalizeID(e.Spec.CVE)] = true
		}
	}
	return n
}

// Data is everything below data.assay that comes from scans and exceptions.
// Its values are plain JSON values.
func Data(scans []api.Scan, exceptions []api.VulnerabilityException, needs Needs) map[string]any {
	images, details := map[string]any{}, map[string]any{}
	for digest, scan := range newestScans(scans) {
		image, detail := Image(scan, needs)
		put(images, Shard(digest), digest, image)
		if len(detail) > 0 {
			put(details, Shard(digest), digest, detail)
		}
	}
	names, indexes := observations(scans)
	return map[string]any{
		"images":     images,
		"details":    details,
		"names":      names,
		"indexes":    indexes,
		"exceptions": exceptionDocuments(exceptions),
	}
}

// Image is the document of one scan below images, and that below details, which is
// empty where nothing looks at more than scores.
func Image(scan api.Scan, needs Needs) (image, details map[string]any) {
	groups := Groups(scan.Vulnerabilities)
	return imageDocument(scan, groups), detailsDocument(groups, needs)
}

func put(m map[string]any, outer, inner string, value any) {
	sub, ok := m[outer].(map[string]any)
	if !ok {
		sub = map[string]any{}
		m[outer] = sub
	}
	sub[inner] = value
}

// newestScans picks for each digest the newest scan without error; of equally
// old ones the later in order.
func newestScans(scans []api.Scan) map[string]api.Scan {
	newest := map[string]api.Scan{}
	for _, s := range scans {
		if s.Error != "" || s.Digest == "" {
			continue
		}
		if old, ok := newest[s.Digest]; !ok || !s.ScannedAt.Before(old.ScannedAt) {
			newest[s.Digest] = s
		}
	}
	return newest
}

// observations are the names and indexes that the scans saw.
func observations(scans []api.Scan) (names, indexes map[string]any) {
	names, indexes = map[string]any{}, map[string]any{}
	type seen struct{ at, digest string }
	newest := map[[2]string]seen{}
	indexAt := map[string]time.Time{}
	for _, s := range scans {
		if s.Index != nil && s.Index.Digest != "" {
			if at, ok := indexAt[s.Index.Digest]; !ok || !s.ScannedAt.Before(at) {
				indexAt[s.Index.Digest] = s.ScannedAt
				platforms := map[string]any{}
				for p, d := range s.Index.Platforms {
					platforms[p] = d
				}
				indexes[s.Index.Digest] = map[string]any{"platforms": platforms}
			}
		}
		digest := s.Digest
		if s.Index != nil && s.Index.Digest != "" {
			digest = s.Index.Digest
		}
		ref, err := api.ParseReference(s.Image)
		if err != nil || digest == "" || ref.Tag == "" || ref.Digest != "" {
			continue
		}
		key, now := [2]string{ref.Name(), ref.Tag}, seen{Time(s.ScannedAt), digest}
		if old, ok := newest[key]; !ok || cmp.Or(cmp.Compare(now.at, old.at), cmp.Compare(now.digest, old.digest)) > 0 {
			newest[key] = now
			put(names, key[0], key[1], map[string]any{"digest": now.digest, "at": now.at})
		}
	}
	return names, indexes
}

func toAny(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}
