package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/assay-dev/assay/documents"
)

// AuditEntry says who changed what people decide. It never holds a secret.
type AuditEntry struct {
	ID      int64  `json:"id"`
	At      string `json:"at"`
	Who     string `json:"who"`
	Via     string `json:"via,omitempty"`     // the authenticator; "" where the server itself did it
	Address string `json:"address,omitempty"` // of the client
	Action  string `json:"action"`            // such as add, replace, remove
	Kind    string `json:"kind"`              // such as exception
	Name    string `json:"name"`
	// Before and After are what there was and is; absent is nothing. One of more than 64 KiB
	// is an object of its bytes and SHA-256 instead.
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

// maxAudited bounds what an entry has of one side of a change, in bytes.
const maxAudited = 64 << 10

// Audit keeps an entry; its ID and time are given by the store.
func (t *Tx) Audit(ctx context.Context, e AuditEntry) error {
	_, err := t.exec(ctx, "INSERT INTO audit (at, who, via, address, action, kind, name, before, after) VALUES ("+marks(9)+")",
		t.at, clean(e.Who), e.Via, e.Address, e.Action, e.Kind, clean(e.Name), audited(e.Before), audited(e.After))
	return err
}

func audited(side json.RawMessage) string {
	if len(side) <= maxAudited {
		return clean(string(side))
	}
	sum := sha256.Sum256(side)
	return fmt.Sprintf(`{"bytes":%d,"sha256":%q}`, len(side), hex.EncodeToString(sum[:]))
}

// AuditFilter narrows a list of entries; empty members do not.
type AuditFilter struct {
	Who, Action, Kind, Name string
	Since, Until            time.Time
}

// AuditLog are the newest entries first, older than an id where that is not 0.
func (s *Store) AuditLog(ctx context.Context, f AuditFilter, before int64, limit int) (list []AuditEntry, err error) {
	where, args := []string{"(CAST(? AS BIGINT) = 0 OR id < ?)"}, []any{before, before}
	for _, c := range []struct{ column, value string }{{"who = ?", clean(f.Who)}, {"action = ?", f.Action}, {"kind = ?", f.Kind}, {"name = ?", clean(f.Name)}, {"at >= ?", moment(f.Since)}, {"at < ?", moment(f.Until)}} {
		if c.value != "" {
			where, args = append(where, c.column), append(args, c.value)
		}
	}
	return list, s.View(ctx, func(t *Tx) error {
		list = nil
		return t.each(ctx, "SELECT id, at, who, via, address, action, kind, name, before, after FROM audit WHERE "+strings.Join(where, " AND ")+" ORDER BY id DESC LIMIT ?", append(args, limit), func(scan func(...any) error) error {
			var e AuditEntry
			var was, is string
			if err := scan(&e.ID, &e.At, &e.Who, &e.Via, &e.Address, &e.Action, &e.Kind, &e.Name, &was, &is); err != nil {
				return err
			}
			if was != "" {
				e.Before = json.RawMessage(was)
			}
			if is != "" {
				e.After = json.RawMessage(is)
			}
			list = append(list, e)
			return nil
		})
	})
}

// moment is a time as the store writes it; "" for none.
func moment(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return documents.Time(at)
}
