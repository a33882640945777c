package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Bounds on the bytes of a manifest or index, and on the members of an index.
const (
	MaxManifest        = 4 << 20
	maxManifestMembers = 1000
)

// Manifest is what the bytes of an image's manifest or index prove: they are what the digest
// is of.
type Manifest struct {
	// Digest is the SHA-256 of the bytes, "sha256:…".
	Digest string
	// Index is that of an index, nil for a manifest of one platform.
	Index *Index
	// ConfigDigest is that of the configuration of a manifest of one platform.
	ConfigDigest string
}

// Media types of manifests that are read.
const (
	typeIndex          = "application/vnd.oci.image.index.v1+json"
	typeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeManifest       = "application/vnd.oci.image.manifest.v1+json"
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
)

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Platform  *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
	} `json:"platform"`
	Annotations map[string]string `json:"annotations"`
}

// ParseManifest reads the bytes of a manifest or an index of at most [MaxManifest] bytes, as
// registries keep them. What could be read as either is an error. So is an index whose bytes do
// not tell all of its platforms, because a member is an index itself or names no platform.
func ParseManifest(raw []byte) (Manifest, error) {
	if len(raw) > MaxManifest {
		return Manifest{}, fmt.Errorf("the manifest has more than %d bytes", MaxManifest)
	}
	var m struct {
		MediaType string          `json:"mediaType"`
		Config    *descriptor     `json:"config"`
		Layers    json.RawMessage `json:"layers"`
		Manifests json.RawMessage `json:"manifests"`
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("the manifest is no JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Manifest{}, errors.New("the manifest is no JSON: something comes after it")
	}
	sum := sha256.Sum256(raw)
	out := Manifest{Digest: "sha256:" + hex.EncodeToString(sum[:])}
	isIndex, isManifest := m.Manifests != nil, m.Config != nil || m.Layers != nil
	fits := isIndex != isManifest
	switch m.MediaType {
	case "":
	case typeIndex, typeDockerIndex:
		fits = fits && isIndex
	case typeManifest, typeDockerManifest:
		fits = fits && isManifest
	default:
		return Manifest{}, fmt.Errorf("the manifest has the media type %.80q, which is of no image", m.MediaType)
	}
	if !fits {
		return Manifest{}, errors.New("it cannot be told whether the bytes are a manifest or an index: an index has manifests, a manifest has config and layers")
	}
	if isManifest {
		if m.Config == nil || !digestPattern.MatchString(m.Config.Digest) {
			return Manifest{}, errors.New("the manifest has no digest of a configuration")
		}
		out.ConfigDigest = m.Config.Digest
		return out, nil
	}
	var members []descriptor
	if err := json.Unmarshal(m.Manifests, &members); err != nil {
		return Manifest{}, fmt.Errorf("the index has no list of manifests: %w", err)
	}
	platforms, err := platformsOf(members)
	out.Index = &Index{Digest: out.Digest, Platforms: platforms}
	return out, err
}

// platformsOf are the platforms of an index. Of two members of one platform the first counts,
// as for container engines; attestations are no images.
func platformsOf(members []descriptor) (map[string]string, error) {
	if len(members) > maxManifestMembers {
		return nil, fmt.Errorf("the index has more than %d members", maxManifestMembers)
	}
	platforms := map[string]string{}
	for i, m := range members {
		if p := m.Platform; m.Annotations["vnd.docker.reference.type"] == "attestation-manifest" || p != nil && p.OS == "unknown" && p.Architecture == "unknown" {
			continue
		}
		switch m.MediaType {
		case typeIndex, typeDockerIndex:
			return nil, fmt.Errorf("manifests[%d] is an index itself: the bytes do not tell its platforms", i)
		case typeManifest, typeDockerManifest:
		default:
			continue
		}
		if !digestPattern.MatchString(m.Digest) {
			return nil, fmt.Errorf("manifests[%d]: %.80q is no digest", i, m.Digest)
		}
		var platform string
		if m.Platform != nil {
			platform = PlatformText(m.Platform.OS, m.Platform.Architecture, m.Platform.Variant)
		}
		if platform == "" {
			return nil, fmt.Errorf("manifests[%d] names no platform: the bytes do not tell it", i)
		}
		if _, taken := platforms[platform]; !taken {
			platforms[platform] = m.Digest
		}
	}
	return platforms, nil
}

// PlatformText is the normal form of a platform, as container engines have it: linux/arm64/v8 is
// "linux/arm64", and linux/arm is "linux/arm/v7". It is empty when the platform is not known.
func PlatformText(os, architecture, variant string) string {
	if os == "" || architecture == "" || os == "unknown" {
		return ""
	}
	os, architecture, variant = strings.ToLower(os), strings.ToLower(architecture), strings.ToLower(variant)
	if os == "macos" {
		os = "darwin"
	}
	switch architecture {
	case "i386":
		architecture, variant = "386", ""
	case "x86_64", "x86-64", "amd64":
		architecture = "amd64"
		if variant == "v1" {
			variant = ""
		}
	case "aarch64", "arm64":
		architecture = "arm64"
		switch variant {
		case "8", "v8", "v8.0":
			variant = ""
		case "9", "9.0", "v9.0":
			variant = "v9"
		}
	case "armhf":
		architecture, variant = "arm", "v7"
	case "armel":
		architecture, variant = "arm", "v6"
	case "arm":
		switch variant {
		case "", "7":
			variant = "v7"
		case "5", "6", "8":
			variant = "v" + variant
		}
	}
	text := os + "/" + architecture
	if variant != "" {
		text += "/" + variant
	}
	return text
}

// Check says what of an index its bytes, where they are given, do not prove.
func (x Index) Check() error {
	if x.Manifest == nil {
		return nil
	}
	m, err := ParseManifest(x.Manifest)
	switch {
	case err != nil:
		return fmt.Errorf("index.manifest: %w", err)
	case m.Digest != x.Digest:
		return fmt.Errorf("index.manifest has the digest %s, not index.digest %.80s", m.Digest, x.Digest)
	case m.Index == nil:
		return errors.New("index.manifest is the manifest of one platform, not an index")
	case !maps.Equal(m.Index.Platforms, x.Platforms):
		return fmt.Errorf("index.platforms %v are not those of index.manifest, %v", named(x.Platforms), named(m.Index.Platforms))
	}
	return nil
}

// named are some platforms with their digests, in order.
func named(platforms map[string]string) []string {
	const most = 10
	var list []string
	for _, p := range slices.Sorted(maps.Keys(platforms)) {
		list = append(list, fmt.Sprintf("%.40s=%.80s", p, platforms[p]))
	}
	if len(list) > most {
		list = append(list[:most], fmt.Sprintf("and %d more", len(list)-most))
	}
	return list
}

// CheckManifest says what of a scan the bytes of its manifest, where they are given, do not prove.
func (s Scan) CheckManifest() error {
	if s.Manifest == nil {
		return nil
	}
	m, err := ParseManifest(s.Manifest)
	switch {
	case err != nil:
		return fmt.Errorf("manifest: %w", err)
	case m.Digest != s.Digest:
		return fmt.Errorf("manifest has the digest %s, not digest %.80s", m.Digest, s.Digest)
	case m.Index != nil:
		return errors.New("manifest is an index, not the manifest of one platform")
	case s.ConfigDigest != "" && m.ConfigDigest != s.ConfigDigest:
		return fmt.Errorf("manifest has the configuration %s, not config_digest %.80s", m.ConfigDigest, s.ConfigDigest)
	}
	return nil
}
