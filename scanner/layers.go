package scanner

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode"

	"github.com/anchore/syft/syft/sbom"
	"github.com/anchore/syft/syft/source"

	"github.com/assay-dev/assay/api"
)

// Bounds on what is kept of an image's layers.
const (
	maxInstruction = 500
	maxBaseName    = 512
	maxKeptLayers  = 1000
)

// Annotations, and labels, that name the base image.
const (
	baseNameAnnotation   = "org.opencontainers.image.base.name"
	baseDigestAnnotation = "org.opencontainers.image.base.digest"
)

// describeLayers gives the layers that an SBOM of an image knows, from the lowest, and
// the base image that labels or annotations name. What it reads may be hostile: it is
// data to show, and nothing fails for it.
func describeLayers(s *sbom.SBOM) ([]api.Layer, *api.BaseImage) {
	m, ok := s.Source.Metadata.(source.ImageMetadata)
	if !ok {
		return nil, nil
	}
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
		History []struct {
			CreatedBy  string `json:"created_by"`
			Comment    string `json:"comment"`
			EmptyLayer bool   `json:"empty_layer"`
		} `json:"history"`
		Config struct {
			Labels map[string]string `json:"Labels"`
		} `json:"config"`
	}
	var manifest struct {
		Layers []struct {
			Digest string `json:"digest"`
			Size   int64  `json:"size"`
		} `json:"layers"`
		Annotations map[string]string `json:"annotations"`
	}
	if len(m.RawConfig) <= maxConfigBytes {
		_ = json.NewDecoder(bytes.NewReader(m.RawConfig)).Decode(&config)
	}
	if len(m.RawManifest) <= maxManifestBytes {
		_ = json.NewDecoder(bytes.NewReader(m.RawManifest)).Decode(&manifest)
	}
	ids := config.RootFS.DiffIDs
	if len(ids) == 0 { // an SBOM without the configuration
		for _, l := range m.Layers {
			ids = append(ids, l.Digest)
		}
	}
	layers := make([]api.Layer, 0, min(len(ids), maxKeptLayers))
	for _, id := range ids {
		if !sha256Digest.MatchString(id) || len(layers) == maxKeptLayers {
			return nil, labelledBase(manifest.Annotations, m.Annotations, config.Config.Labels, m.Labels) // half of them would mislead
		}
		layers = append(layers, api.Layer{DiffID: id})
	}
	if len(manifest.Layers) == len(layers) {
		for i, l := range manifest.Layers {
			if sha256Digest.MatchString(l.Digest) && l.Size >= 0 {
				layers[i].Digest, layers[i].Size = l.Digest, l.Size
			}
		}
	}
	// History tells of each layer in turn, and of instructions that made none. Some builders
	// leave it out, or tell another number: then nothing is known of any.
	var made []string
	for _, h := range config.History {
		if !h.EmptyLayer {
			made = append(made, instruction(firstOf(h.CreatedBy, h.Comment)))
		}
	}
	if len(made) == len(layers) {
		for i := range layers {
			layers[i].CreatedBy = made[i]
		}
	}
	return layers, labelledBase(manifest.Annotations, m.Annotations, config.Config.Labels, m.Labels)
}

// instruction is what made a layer, in one line of bounded length.
func instruction(s string) string {
	s = clipped(s, 4*maxInstruction)
	s = strings.TrimPrefix(s, "/bin/sh -c #(nop) ")
	if rest, ok := strings.CutPrefix(s, "/bin/sh -c "); ok {
		s = "RUN " + rest
	}
	return clipped(strings.TrimSuffix(oneLine(s), " # buildkit"), maxInstruction)
}

// oneLine is a text without control characters and runs of white space.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r): // of directions too
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return strings.Join(strings.Fields(s), " ")
}

func clipped(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// labelledBase is the base image that the first of some annotations and labels names.
func labelledBase(of ...map[string]string) *api.BaseImage {
	b := api.BaseImage{Found: api.BaseLabelled}
	for _, labels := range of {
		name, digest := labels[baseNameAnnotation], labels[baseDigestAnnotation]
		if b.Name == "" && len(name) <= maxBaseName {
			if ref, err := api.ParseReference(name); err == nil {
				b.Name = ref.String()
			}
		}
		if b.Digest == "" && !strings.Contains(digest, ":") {
			digest = "sha256:" + digest // some builders leave it out
		}
		if b.Digest == "" && sha256Digest.MatchString(digest) {
			b.Digest = digest
		}
	}
	if b.Name == "" && b.Digest == "" {
		return nil
	}
	return &b
}
