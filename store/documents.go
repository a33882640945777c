package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
)

// ImageDocument is what an evaluator knows of an image by one piece of evidence, as JSON (package documents).
type ImageDocument struct {
	Piece  int64 // of evidence
	Digest string
	Origin Origin
	// Found is when its packages were determined, as documents.Time writes it.
	Found    string
	Way      api.Way
	Document json.RawMessage
	// Details are those of all vulnerabilities, by their canonical ids; nil unless asked for.
	Details map[string]json.RawMessage
}

// Within narrows documents to some digests: those of a list, or of a shard's first hexadecimal
// digit; and to some spaces. Nil members narrow nothing.
type Within struct {
	Digests []string
	Digit   *string
	Spaces  []string
	Pieces  []int64
	// Everywhere are only those of the zero Origin, Elsewhere only the others.
	Everywhere, Elsewhere bool
}

func (w Within) conditions(digest string) (c conditions, none bool) {
	list := func(column string, values []string) {
		args := make([]any, len(values))
		for i, v := range values {
			args[i] = v
		}
		c.add(column+" IN ("+marks(len(args))+")", args...)
	}
	if w.Digests != nil && len(w.Digests) == 0 || w.Pieces != nil && len(w.Pieces) == 0 || w.Spaces != nil && len(w.Spaces) == 0 {
		return c, true
	}
	if w.Digests != nil {
		list(digest, w.Digests)
	}
	if w.Pieces != nil {
		args := make([]any, len(w.Pieces))
		for i, p := range w.Pieces {
			args[i] = p
		}
		c.add("i.id IN ("+marks(len(args))+")", args...)
	}
	if w.Digit != nil {
		c.add(digest+" >= ? AND "+digest+" < ?", "sha256:"+*w.Digit, "sha256:"+*w.Digit+"g")
	}
	if w.Spaces != nil {
		list("o.space", w.Spaces)
	}
	if w.Everywhere {
		c.add("o.id = ?", anyOrigin)
	}
	if w.Elsewhere {
		c.add("o.id <> ?", anyOrigin)
	}
	return c, false
}

// ImageDocuments calls fn with documents, in the order of the digests, and of each in that of the
// origins. Details are read where details says so.
func (t *Tx) ImageDocuments(ctx context.Context, w Within, details bool, fn func(ImageDocument) error) error {
	column := "''"
	if details {
		column = "d.details"
	}
	c, none := w.conditions("i.digest")
	if none {
		return nil
	}
	return t.each(ctx, "SELECT i.id, i.digest, o.space, o.registry, i.found, i.way, d.document, "+column+` FROM images i JOIN image_documents d ON d.image_id = i.id
		JOIN origins o ON o.id = i.origin_id`+c.where()+" ORDER BY i.digest, o.space, o.registry", c.args, func(scan func(...any) error) error {
		var d ImageDocument
		var document string
		var packed []byte
		if err := scan(&d.Piece, &d.Digest, &d.Origin.Space, &d.Origin.Registry, &d.Found, &d.Way, &document, &packed); err != nil {
			return err
		}
		d.Document = json.RawMessage(document)
		if details {
			text, err := decompress(packed)
			if err == nil {
				err = json.Unmarshal(text, &d.Details)
			}
			if err != nil {
				return fmt.Errorf("reading the details of %s: %w", d.Digest, err)
			}
		}
		return fn(d)
	})
}

// Observation is what a tag leads to, in a space.
type Observation struct {
	Name, Tag, Space, Digest string
	// First is when it was seen first, Last when last.
	First, Last string
}

// NewestNames calls fn with the newest observation of each of some name:tag in each space, of all
// when none is given, by name, tag and space. Spaces narrows them where it is not nil.
func (t *Tx) NewestNames(ctx context.Context, names, spaces []string, fn func(Observation) error) error {
	var last Observation
	c, none := Within{Spaces: spaces}.conditions("")
	if none {
		return nil
	}
	read := func(c conditions) error {
		return t.each(ctx, "SELECT o.name, o.tag, o.space, o.digest, MIN(o.first), MAX(o.last) AS newest FROM observations o"+c.where()+
			" GROUP BY o.name, o.tag, o.space, o.digest ORDER BY o.name, o.tag, o.space, newest DESC, o.digest DESC", c.args, func(scan func(...any) error) error {
			var o Observation
			if err := scan(&o.Name, &o.Tag, &o.Space, &o.Digest, &o.First, &o.Last); err != nil {
				return err
			}
			if o.Name == last.Name && o.Tag == last.Tag && o.Space == last.Space {
				return nil
			}
			last = o
			return fn(o)
		})
	}
	if names == nil {
		return read(c)
	}
	for _, n := range names {
		at := strings.LastIndexByte(n, ':')
		one := conditions{slices.Clone(c.parts), slices.Clone(c.args)}
		one.add("o.name = ? AND o.tag = ?", n[:at], n[at+1:])
		if err := read(one); err != nil {
			return err
		}
	}
	return nil
}

// IndexDocument is what the digest of an index leads to.
type IndexDocument struct {
	api.Index
	// Origin is whose claim it is, At when it was made; Proven is by its bytes, for all.
	Origin Origin
	At     string
	Proven bool
}

// Indexes calls fn with the platforms of indexes that count for all clusters and names, of all
// when no digest is given, by digest: proven, or else claimed.
func (t *Tx) Indexes(ctx context.Context, digests []string, fn func(IndexDocument) error) error {
	seen := map[string]bool{}
	c, none := Within{Digests: digests}.conditions("digest")
	if none {
		return nil
	}
	proven := c
	proven.add("config_digest = ''")
	if err := t.indexes(ctx, "SELECT digest, platforms, at, '', '' FROM proofs"+proven.where()+" ORDER BY digest", proven.args, func(x IndexDocument) error {
		x.Proven, seen[x.Digest] = true, true
		return fn(x)
	}); err != nil {
		return err
	}
	return t.IndexClaims(ctx, Within{Digests: digests, Everywhere: true}, func(x IndexDocument) error {
		if seen[x.Digest] {
			return nil
		}
		return fn(x)
	})
}

// IndexClaims calls fn with claims, in the order of digests and origins.
func (t *Tx) IndexClaims(ctx context.Context, w Within, fn func(IndexDocument) error) error {
	c, none := w.conditions("x.digest")
	if none {
		return nil
	}
	c.add("NOT EXISTS (SELECT 1 FROM proofs p WHERE p.digest = x.digest)") // a claim against what bytes prove is none
	return t.indexes(ctx, "SELECT x.digest, x.platforms, x.at, o.space, o.registry FROM indexes x JOIN origins o ON o.id = x.origin_id"+c.where()+" ORDER BY x.digest, o.space, o.registry", c.args, fn)
}

// ClaimsReadBy calls fn with the claims about some digests that a cluster reads beside what is shared.
func (t *Tx) ClaimsReadBy(ctx context.Context, cluster string, digests []string, fn func(IndexDocument) error) error {
	spaces, err := t.readBy(ctx, cluster)
	if err != nil {
		return err
	}
	return t.IndexClaims(ctx, Within{Digests: digests, Spaces: spaces}, fn)
}

func (t *Tx) indexes(ctx context.Context, query string, args []any, fn func(IndexDocument) error) error {
	return t.each(ctx, query, args, func(scan func(...any) error) error {
		var x IndexDocument
		var text string
		if err := scan(&x.Digest, &text, &x.At, &x.Origin.Space, &x.Origin.Registry); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(text), &x.Platforms); err != nil {
			return fmt.Errorf("reading the index %s: %w", x.Digest, err)
		}
		return fn(x)
	})
}

// Holders are the digests of the images that have any of some vulnerabilities, by id or alias.
func (t *Tx) Holders(ctx context.Context, ids []string) (digests []string, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = api.NormalizeID(id)
	}
	return digests, t.each(ctx, "SELECT DISTINCT i.digest FROM terms JOIN image_terms x ON x.term_id = terms.id JOIN images i ON i.id = x.image_id WHERE terms.name IN ("+marks(len(args))+") ORDER BY i.digest",
		args, func(scan func(...any) error) error {
			var d string
			err := scan(&d)
			digests = append(digests, d)
			return err
		})
}
