package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/assay-dev/assay/api"
)

// ImageDocument is what an evaluator knows of an image, as JSON (package documents).
type ImageDocument struct {
	Digest   string
	Document json.RawMessage
	// Details are those of all vulnerabilities, by their canonical ids; nil unless asked for.
	Details map[string]json.RawMessage
}

// ImageDocuments calls fn with the documents of digests, all of them when none is
// given, in the order of the digests. Details are read where details says so.
func (t *Tx) ImageDocuments(ctx context.Context, digests []string, details bool, fn func(ImageDocument) error) error {
	where, args := "", []any{}
	if digests != nil {
		if len(digests) == 0 {
			return nil
		}
		where = " WHERE i.digest IN (" + marks(len(digests)) + ")"
		for _, d := range digests {
			args = append(args, d)
		}
	}
	return t.imageDocuments(ctx, where, args, details, fn)
}

// PartDocuments are those of a part of the images, whose digests begin with "sha256:" and a hexadecimal digit.
func (t *Tx) PartDocuments(ctx context.Context, digit string, details bool, fn func(ImageDocument) error) error {
	return t.imageDocuments(ctx, " WHERE i.digest >= ? AND i.digest < ?", []any{"sha256:" + digit, "sha256:" + digit + "g"}, details, fn)
}

func (t *Tx) imageDocuments(ctx context.Context, where string, args []any, details bool, fn func(ImageDocument) error) error {
	column := "''"
	if details {
		column = "d.details"
	}
	return t.each(ctx, "SELECT i.digest, d.document, "+column+" FROM images i JOIN image_documents d ON d.image_id = i.id"+where+" ORDER BY i.digest", args, func(scan func(...any) error) error {
		var d ImageDocument
		var document string
		var packed []byte
		if err := scan(&d.Digest, &document, &packed); err != nil {
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

// Observation is what a tag leads to.
type Observation struct {
	Name, Tag, Digest string
	// First is when it was seen first.
	First string
}

// NewestNames calls fn with the newest observation of each of some name:tag, of all
// when none is given, by name and tag.
func (t *Tx) NewestNames(ctx context.Context, names []string, fn func(Observation) error) error {
	var last Observation
	read := func(where string, args []any) error {
		return t.each(ctx, "SELECT name, tag, digest, first FROM observations"+where+" ORDER BY name, tag, last DESC, digest DESC", args, func(scan func(...any) error) error {
			var o Observation
			if err := scan(&o.Name, &o.Tag, &o.Digest, &o.First); err != nil {
				return err
			}
			if o.Name == last.Name && o.Tag == last.Tag {
				return nil
			}
			last = o
			return fn(o)
		})
	}
	if names == nil {
		return read("", nil)
	}
	for _, n := range names {
		at := strings.LastIndexByte(n, ':')
		if err := read(" WHERE name = ? AND tag = ?", []any{n[:at], n[at+1:]}); err != nil {
			return err
		}
	}
	return nil
}

// Indexes calls fn with the platforms of indexes, of all when no digest is given, by digest.
func (t *Tx) Indexes(ctx context.Context, digests []string, fn func(api.Index) error) error {
	where, args := "", []any{}
	if digests != nil {
		if len(digests) == 0 {
			return nil
		}
		where = " WHERE digest IN (" + marks(len(digests)) + ")"
		for _, d := range digests {
			args = append(args, d)
		}
	}
	return t.each(ctx, "SELECT digest, platforms FROM indexes"+where+" ORDER BY digest", args, func(scan func(...any) error) error {
		var x api.Index
		var text string
		if err := scan(&x.Digest, &text); err != nil {
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
