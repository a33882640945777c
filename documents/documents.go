// Package documents turns scans and exceptions into the data documents that
// every evaluator reads: the embedded engine, a bundle, and stock OPA. The
// layout, measured in docs/design/002-evaluator.md, is below data.assay:
//
//	images[shard][digest]      the evidence whose scope is all: {"at", "db", "ids", "s"}: the scored
//	                           CVEs, highest first; "a": the other ids of those CVEs that have
//	                           some; "db": when the vulnerability database was built, "" if not
//	                           known; "found": when the packages were determined, if not "at";
//	                           "p": the packages and fixes, in words, of the first of these CVEs;
//	                           "way": how it came to be known, if that is known; "unplaced": a list of
//	                           [distribution or "", number of packages], where nothing could be looked up for some
//	details[shard][digest]     cve → members, where a criterion needs more than the score
//	names[name][tag]           {"digest", "at"}: the newest observation of a tag, and "failed": {"at",
//	                           "error"} where the last scan of it failed; at "@" with the digits of a
//	                           digest ([DigestKey]), "failed" of scans under the name of that digest, and
//	                           "waits": true where an SBOM of it was matched with no database yet
//	indexes[digest]            {"platforms": {"linux/amd64": digest}}, and "proven" where its bytes
//	                           are known, else "found" ([Index])
//	spaces[space].evidence     [shard][digest] → a list of evidence of bounded scopes ([Piece]): image
//	                           documents with "scope", "prefix", "found", "way" and "d", their details
//	spaces[space].indexes      [digest] → a list of what bounded scopes claim of an index ([Claim])
//	spaces[space].names        as names, of a cluster or group ([Space])
//	clusters[name]             {"spaces": […]}: what a cluster reads beside what is shared, in an
//	                           evaluator that decides for many ([SpacesDocument])
//	cluster                    {"name", "spaces"}: that of an evaluator of one ([ClusterDocument])
//	exceptions.plain           [key][id] → a list; a key is "*", name, name:tag or name@digest
//	exceptions.conditional     the same, for those with packages or until
//	exceptions.ends            [key][id] → when the last of the plain ones ends
//	exceptions.keys            [name] → the keys of both that begin with the name
//	revisions                  {bundle: revision}: what a decision can be reproduced from
//
// Where evidence has no origin there is no document "spaces", "clusters" or "cluster". docs/design/021-origin.md says what of it counts for whom.
//
// A shard is the first two hexadecimal digits of the digest. Times are text of
// fixed width in UTC (see [Time]), so that they compare as text.
package documents

import (
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

// Data is everything below data.assay that comes from scans and exceptions, for all clusters
// that the scopes of scans name. Its values are plain JSON values.
func Data(scans []api.Scan, exceptions []api.VulnerabilityException, needs Needs) map[string]any {
	data := map[string]any{
		"images":     map[string]any{},
		"details":    map[string]any{},
		"names":      map[string]any{},
		"indexes":    map[string]any{},
		"exceptions": exceptionDocuments(exceptions),
	}
	addEvidence(data, scans, needs)
	addIndexes(data, scans)
	addNames(data, scans)
	addFailures(data, scans)
	addClusters(data, scans)
	return data
}

// Image is the document of one scan below images, and that below details, which is
// empty where nothing looks at more than scores.
func Image(scan api.Scan, needs Needs) (image, details map[string]any) {
	groups := Groups(scan.Vulnerabilities)
	return imageDocument(scan, groups), detailsDocument(groups, needs)
}

func toAny(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}
