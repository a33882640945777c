package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// AddExceptions adds exceptions, which are valid, all or none. ErrExists when a name
// is taken, unless replace says that it takes its place.
func (t *Tx) AddExceptions(ctx context.Context, list []api.VulnerabilityException, replace bool) error {
	for _, e := range list {
		if replace {
			if err := t.RemoveException(ctx, e.Metadata.Name); err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		text, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("writing the exception: %w", err)
		}
		name, _ := documents.ExceptionKeys(e.Spec)
		n, err := t.exec(ctx, `INSERT INTO exceptions (name, cve, scope, repository, expires, document) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING`,
			e.Metadata.Name, api.NormalizeID(e.Spec.CVE), e.Spec.Scope, name, expiry(e.Spec.Expires), string(text))
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("exception %q: %w", e.Metadata.Name, ErrExists)
		}
	}
	if len(list) == 0 {
		return nil
	}
	if err := t.changed(ctx, ExceptionsChanged, ""); err != nil {
		return err
	}
	return t.reclassifyExceptions(ctx, list)
}

// reclassifyExceptions makes it necessary to classify what exceptions may reach.
func (t *Tx) reclassifyExceptions(ctx context.Context, list []api.VulnerabilityException) error {
	type reach struct{ cve, name string }
	seen := map[reach]bool{}
	for _, e := range list {
		name, _ := documents.ExceptionKeys(e.Spec)
		r := reach{api.NormalizeID(e.Spec.CVE), name}
		if seen[r] || seen[reach{r.cve, ""}] {
			continue
		}
		seen[r] = true
		if err := t.ReclassifyCVE(ctx, r.cve, r.name); err != nil {
			return err
		}
	}
	return nil
}

// ReclassifyExceptions makes it necessary to classify what exceptions reach that
// do not stand in the store, or that came to their end.
func (t *Tx) ReclassifyExceptions(ctx context.Context, list []api.VulnerabilityException) error {
	return t.reclassifyExceptions(ctx, list)
}

// RemoveException removes an exception; ErrNotFound when there is none of the name.
func (t *Tx) RemoveException(ctx context.Context, name string) error {
	var text string
	if err := t.one(ctx, "DELETE FROM exceptions WHERE name = ? RETURNING document", []any{name}, &text); err != nil {
		return err
	}
	var e api.VulnerabilityException
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return fmt.Errorf("reading the exception: %w", err)
	}
	if err := t.changed(ctx, ExceptionsChanged, name); err != nil {
		return err
	}
	return t.reclassifyExceptions(ctx, []api.VulnerabilityException{e})
}

// Exception is the one of a name.
func (t *Tx) Exception(ctx context.Context, name string) (e api.VulnerabilityException, err error) {
	var text string
	if err := t.one(ctx, "SELECT document FROM exceptions WHERE name = ?", []any{name}, &text); err != nil {
		return e, err
	}
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return e, fmt.Errorf("reading the exception: %w", err)
	}
	return e, nil
}

// Exceptions are all of them, in the order in which they were added.
func (t *Tx) Exceptions(ctx context.Context) ([]api.VulnerabilityException, error) {
	return t.exceptions(ctx, " ORDER BY id")
}

func (t *Tx) exceptions(ctx context.Context, rest string, args ...any) (list []api.VulnerabilityException, err error) {
	err = t.each(ctx, "SELECT document FROM exceptions"+rest, args, func(scan func(...any) error) error {
		var text string
		if err := scan(&text); err != nil {
			return err
		}
		var e api.VulnerabilityException
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			return fmt.Errorf("reading the exception: %w", err)
		}
		list = append(list, e)
		return nil
	})
	return list, err
}

// ExceptionKey orders exceptions: by their end, those without one last, then by CVE and name.
type ExceptionKey struct {
	End  string `json:"end"` // documents.Time, or "~" for never
	CVE  string `json:"cve"` // as api.NormalizeID writes it
	Name string `json:"name"`
}

// KeyOf is the place of an exception in lists.
func KeyOf(e api.VulnerabilityException) ExceptionKey {
	return ExceptionKey{cmp.Or(expiry(e.Spec.Expires), "~"), api.NormalizeID(e.Spec.CVE), e.Metadata.Name}
}

// Compare is less than 0 where k comes before other.
func (k ExceptionKey) Compare(other ExceptionKey) int {
	return cmp.Or(cmp.Compare(k.End, other.End), cmp.Compare(k.CVE, other.CVE), cmp.Compare(k.Name, other.Name))
}

// ExceptionFilter narrows lists of exceptions; empty members do not.
type ExceptionFilter struct {
	CVE string // the id that the exception names, in any case
	// InForce takes those that have not come to their end at Now, or those that have.
	InForce *bool
	Now     time.Time
}

// Fits tells whether an exception of a key is one that the filter takes.
func (f ExceptionFilter) Fits(k ExceptionKey) bool {
	return (f.CVE == "" || k.CVE == api.NormalizeID(f.CVE)) && (f.InForce == nil || *f.InForce == (k.End > documents.Time(f.Now)))
}

// ExceptionsAfter are at most limit exceptions that a filter takes, in the order of
// ExceptionKey, of those that come after a key; "after" is nil at the start.
func (t *Tx) ExceptionsAfter(ctx context.Context, f ExceptionFilter, after *ExceptionKey, limit int) ([]api.VulnerabilityException, error) {
	const end = "CASE WHEN expires = '' THEN '~' ELSE expires END"
	var c conditions
	if f.CVE != "" {
		c.add("cve = ?", api.NormalizeID(clean(f.CVE)))
	}
	if f.InForce != nil {
		c.add(end+map[bool]string{true: " > ?", false: " <= ?"}[*f.InForce], documents.Time(f.Now))
	}
	if after != nil {
		c.add("("+end+", cve, name) > (?, ?, ?)", clean(after.End), clean(after.CVE), clean(after.Name))
	}
	return t.exceptions(ctx, c.where()+" ORDER BY "+end+", cve, name LIMIT ?", append(c.args, limit)...)
}

// expiry is the end of an exception as text of fixed width; "" is never.
func expiry(expires string) string {
	at, err := time.Parse(time.RFC3339, expires)
	if err != nil {
		return expires
	}
	return documents.Time(at)
}
