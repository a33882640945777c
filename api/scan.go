package api

import (
	"strconv"
	"time"
)

// Result is the classification of an image. It is always computed, never read
// from a document that claims it.
type Result string

// Results, from the best to the worst but for Unknown, which ranks between
// Warn and Fail where the worst of several images counts.
const (
	Pass    Result = "Pass"
	Warned  Result = "Warn"
	Fail    Result = "Fail"
	Unknown Result = "Unknown"
)

// ScanReport is the document of `assay scan -o json`.
type ScanReport struct {
	Schema string `json:"schema"`
	Images []Scan `json:"images"`
}

// Scan is an SBOM of one image matched against one vulnerability database
// build at one time.
type Scan struct {
	// Image is the reference as the user gave it, or as `--as` names it.
	Image string `json:"image"`
	// Digest is that of the platform manifest, "sha256:…"; absent for what has none.
	Digest string `json:"digest,omitempty"`
	// Index is set where the reference led to an index (a multi-platform image).
	Index *Index `json:"index,omitempty"`
	// Platform is that of the image, such as "linux/amd64" or "linux/arm/v7".
	Platform string `json:"platform,omitempty"`
	// ConfigDigest is the image id that docker and containerd show.
	ConfigDigest string `json:"config_digest,omitempty"`
	// Source says what was read: registry, docker, containerd, docker-archive,
	// oci-archive, oci-dir, dir or sbom.
	Source string `json:"source,omitempty"`

	// Result and MaxCVSS are computed after exceptions. MaxCVSS is absent when
	// no counted vulnerability has a score.
	Result  Result   `json:"result"`
	MaxCVSS *float64 `json:"max_cvss,omitempty"`

	// ScannedAt is when the packages were matched with the database, and Found when they were
	// determined; Found is absent where that was the same. A match made later keeps it.
	ScannedAt time.Time     `json:"scanned_at"`
	Found     time.Time     `json:"found,omitzero"`
	Database  *ScanDatabase `json:"database,omitempty"`
	// Scope is the one of which the scan speaks, all where it is absent. A server sets it from
	// the identity that hands the scan in; in a file it is the user's own word.
	Scope Scope `json:"scope,omitzero"`
	// Way says how the packages came to be known; absent where that is not known.
	Way Way `json:"way,omitempty"`
	// Manifest are the bytes of the platform manifest, whose SHA-256 is Digest; absent where
	// they are not at hand. They prove that Digest is no index, and ConfigDigest.
	Manifest []byte `json:"manifest,omitempty"`
	// Distro is the distribution found, such as "debian 12".
	Distro string `json:"distro,omitempty"`
	// Layers are those of the image, from the lowest; absent where they are not known.
	Layers []Layer `json:"layers,omitempty"`
	// Base is the image that it was built on; absent where nothing tells.
	Base *BaseImage `json:"base,omitempty"`
	// Packages is the number of packages in the SBOM.
	Packages int `json:"packages"`
	// Unplaced are those of the packages for which nothing could be looked up, by distribution;
	// see [Unplaced]. Absent where there are none, and in scans of older versions.
	Unplaced []Unplaced `json:"unplaced,omitempty"`
	// Unscored is how many of Vulnerabilities have no CVSS v3 score, exceptions apart: none
	// of these makes an image Warn or Fail by its score.
	Unscored int `json:"unscored,omitempty"`
	// SBOM says where the SBOM comes from; absent where it was made of the image, or was
	// the input itself.
	SBOM *AttestedSBOM `json:"sbom,omitempty"`
	// Error says why the image could not be scanned; its result is Unknown.
	Error           string          `json:"error,omitempty"`
	Warnings        []string        `json:"warnings,omitempty"`
	Vulnerabilities []Vulnerability `json:"vulnerabilities"`
}

// Unplaced are packages of a Linux distribution (deb, rpm, apk and the like) that only its own
// advisories speak of, and of which nothing was found for want of these.
type Unplaced struct {
	// Distro is the one that the vulnerability database does not have, such as "debian 99";
	// absent where none is known that the packages are of.
	Distro string `json:"distro,omitempty"`
	// Packages is their number, at least 1.
	Packages int `json:"packages"`
}

// String says it, and why.
func (u Unplaced) String() string {
	packages := "1 package"
	if u.Packages != 1 {
		packages = strconv.Itoa(u.Packages) + " packages"
	}
	if u.Distro == "" {
		return "nothing could be looked up for " + packages + " of no known distribution"
	}
	return "nothing could be looked up for " + packages + " of " + u.Distro + ", which the vulnerability database does not have"
}

// Unscored is how many of some vulnerabilities have no CVSS v3 score.
func Unscored(list []Vulnerability) (n int) {
	for _, v := range list {
		if v.CVSS == nil {
			n++
		}
	}
	return n
}

// AttestedSBOM is the origin of an SBOM that was found beside the image in its registry.
type AttestedSBOM struct {
	// Origin is "attestation".
	Origin string `json:"origin"`
	// Format is syft-json, cyclonedx-json or spdx-json.
	Format string `json:"format"`
	// Digest is that of the blob with the statement, "sha256:…".
	Digest string `json:"digest"`
	// PredicateType is the statement's, such as "https://spdx.dev/Document".
	PredicateType string `json:"predicate_type"`
	// Subject is the digest that was signed: the image's, or that of the index that holds it.
	Subject string `json:"subject"`
	Signer  Signer `json:"signer"`
	// SignedAt is when a transparency log or a time stamping authority saw the
	// signature; absent for a key's, of which nothing tells when it was made.
	SignedAt *time.Time `json:"signed_at,omitempty"`
}

// OriginAttestation is the origin of an SBOM that was attached to an image and signed.
const OriginAttestation = "attestation"

// Signer is who signed an attestation: a key, or an identity.
type Signer struct {
	// Key is the SHA-256 of a public key in DER, "sha256:…".
	Key string `json:"key,omitempty"`
	// Identity is the subject of a certificate, and Issuer who vouched for it.
	Identity string `json:"identity,omitempty"`
	Issuer   string `json:"issuer,omitempty"`
}

// Layer is one layer of an image.
type Layer struct {
	// Digest and Size, in bytes, are those of the blob as registries keep it; absent
	// where it was never pushed. DiffID is the digest of its tar.
	Digest string `json:"digest,omitempty"`
	DiffID string `json:"diff_id"`
	Size   int64  `json:"size,omitempty"`
	// CreatedBy is the instruction that made it, as its builder wrote it, clipped.
	CreatedBy string `json:"created_by,omitempty"`
}

// BaseFound says how a base image was found.
type BaseFound string

// How base images are found.
const (
	// BaseLabelled: labels or annotations of the image name it.
	BaseLabelled BaseFound = "label"
	// BaseContained: the layers of another known image are the lowest of this one.
	BaseContained BaseFound = "image"
	// BaseShared: images of other repositories have the same lowest layers.
	BaseShared BaseFound = "shared"
)

// BaseImage is what an image was built on.
type BaseImage struct {
	// Name and Digest are absent where they are not known.
	Name   string `json:"name,omitempty"`
	Digest string `json:"digest,omitempty"`
	// Layers is how many of the image's lowest layers are the base's; 0 where that is not known.
	Layers int       `json:"layers"`
	Found  BaseFound `json:"found"`
	// Vulnerabilities and Own are how many records of the scan come from the base's
	// layers, and from others.
	Vulnerabilities int `json:"vulnerabilities"`
	Own             int `json:"own"`
}

// Origin says whether a package comes from the base image or from a layer above it.
type Origin string

// Origins.
const (
	FromBase Origin = "base"
	FromOwn  Origin = "own"
)

// Index is a multi-platform image: its digest and that of each platform's manifest.
type Index struct {
	Digest string `json:"digest"`
	// Platforms maps "linux/amd64" to "sha256:…".
	Platforms map[string]string `json:"platforms"`
	// Manifest are the bytes of the index, whose SHA-256 is Digest. They prove Platforms;
	// without them these are a claim of the scope.
	Manifest []byte `json:"manifest,omitempty"`
}

// ScanDatabase names the vulnerability database that a scan used.
type ScanDatabase struct {
	Built  time.Time `json:"built"`
	Schema string    `json:"schema,omitempty"`
	// Checksum is that of the database, such as "xxh64:…".
	Checksum string `json:"checksum,omitempty"`
}

// Vulnerability is one CVE or advisory in one package of an image.
type Vulnerability struct {
	// ID is as the database names it; Aliases are its other names.
	ID      string   `json:"id"`
	Aliases []string `json:"aliases,omitempty"`
	Package string   `json:"package"`
	Version string   `json:"version"`
	// Type is Syft's package type: deb, apk, rpm, npm, python, go-module, …
	Type string `json:"type"`
	PURL string `json:"purl,omitempty"`
	// CVSS is the CVSS v3 base score; absent when there is none.
	CVSS   *float64 `json:"cvss,omitempty"`
	Vector string   `json:"vector,omitempty"`
	// Severity is Critical, High, Medium, Low, Negligible or Unknown.
	Severity string `json:"severity"`
	Fix      Fix    `json:"fix"`
	// EPSS is the probability (0–1) of exploitation in the next 30 days.
	EPSS *float64 `json:"epss,omitempty"`
	// KEV says that the vulnerability is known to be exploited.
	KEV bool `json:"kev"`
	// Published is the day or moment of publication, RFC 3339.
	Published string `json:"published,omitempty"`
	// Exception is the one that covers the vulnerability now.
	Exception *AppliedException `json:"exception,omitempty"`
	// Namespace is the database's provider namespace, such as "debian:distro:debian:12".
	Namespace   string   `json:"namespace,omitempty"`
	DataSource  string   `json:"data_source,omitempty"`
	Description string   `json:"description,omitempty"`
	Locations   []string `json:"locations,omitempty"`
	// Layer is the diff id of the layer that brought the package.
	Layer string `json:"layer,omitempty"`
	// Origin is that of the package; absent where the base image is not known.
	Origin Origin `json:"origin,omitempty"`
	// Decides says that the vulnerability is one of those that make the image Fail or Warn.
	Decides bool `json:"decides,omitempty"`
}

// Fix says whether and in which versions a vulnerability is fixed.
type Fix struct {
	// State is fixed, not-fixed, wont-fix or unknown.
	State    string   `json:"state"`
	Versions []string `json:"versions,omitempty"`
	// Available is when the fix appeared, RFC 3339; absent when not known.
	Available string `json:"available,omitempty"`
}

// AppliedException is what a covered vulnerability shows of its exception.
type AppliedException struct {
	Name          string `json:"name,omitempty"`
	Scope         string `json:"scope"`
	Justification string `json:"justification"`
	Author        string `json:"author,omitempty"`
	Expires       string `json:"expires,omitempty"`
}
