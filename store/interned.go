package store

import (
	"context"
	"slices"
	"sync"
)

// maxInterned bounds what is remembered, in entries.
const maxInterned = 500_000

type packageKey struct{ name, version, kind string }

// interned remembers the ids of rows that are never changed or removed.
type interned struct {
	mu       sync.Mutex
	terms    map[string]int64
	packages map[packageKey]int64
}

func newInterned() *interned {
	return &interned{terms: map[string]int64{}, packages: map[packageKey]int64{}}
}

func (i *interned) add(fresh *interned) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.terms)+len(i.packages) > maxInterned {
		i.terms, i.packages = map[string]int64{}, map[packageKey]int64{}
	}
	for k, v := range fresh.terms {
		i.terms[k] = v
	}
	for k, v := range fresh.packages {
		i.packages[k] = v
	}
}

func (i *interned) term(name string) (int64, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	id, ok := i.terms[name]
	return id, ok
}

func (i *interned) pkg(key packageKey) (int64, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	id, ok := i.packages[key]
	return id, ok
}

// termIDs are the ids of names of vulnerabilities; those that are new are added.
func (t *Tx) termIDs(ctx context.Context, names []string) (map[string]int64, error) {
	ids := make(map[string]int64, len(names))
	var missing [][]any
	for _, name := range names {
		if id, ok := t.interned.term(name); ok {
			ids[name] = id
		} else if id, ok := t.fresh.terms[name]; ok {
			ids[name] = id
		} else {
			ids[name] = 0
			missing = append(missing, []any{name})
		}
	}
	if err := t.bulk(ctx, "INSERT INTO terms (name)", "ON CONFLICT (name) DO NOTHING", missing); err != nil {
		return nil, err
	}
	for chunk := range slices.Chunk(missing, 1000) {
		args := make([]any, len(chunk))
		for i, row := range chunk {
			args[i] = row[0]
		}
		err := t.each(ctx, "SELECT id, name FROM terms WHERE name IN ("+marks(len(args))+")", args, func(scan func(...any) error) error {
			var id int64
			var name string
			err := scan(&id, &name)
			ids[name], t.fresh.terms[name] = id, id
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// packageIDs are the ids of packages; those that are new are added.
func (t *Tx) packageIDs(ctx context.Context, keys []packageKey) (map[packageKey]int64, error) {
	ids := make(map[packageKey]int64, len(keys))
	var missing [][]any
	for _, key := range keys {
		if _, ok := ids[key]; ok {
			continue
		}
		if id, ok := t.interned.pkg(key); ok {
			ids[key] = id
		} else if id, ok := t.fresh.packages[key]; ok {
			ids[key] = id
		} else {
			ids[key] = 0
			missing = append(missing, []any{key.name, key.version, key.kind})
		}
	}
	if err := t.bulk(ctx, "INSERT INTO packages (name, version, type)", "ON CONFLICT (name, version, type) DO NOTHING", missing); err != nil {
		return nil, err
	}
	for chunk := range slices.Chunk(missing, 500) {
		clause, args := values("v", []string{"name", "version", "type"}, []string{"TEXT", "TEXT", "TEXT"}, chunk)
		err := t.each(ctx, "WITH "+clause+` SELECT p.id, p.name, p.version, p.type FROM v
			JOIN packages p ON p.name = v.name`+t.c()+` AND p.version = v.version`+t.c()+` AND p.type = v.type`+t.c(), args, func(scan func(...any) error) error {
			var id int64
			var key packageKey
			err := scan(&id, &key.name, &key.version, &key.kind)
			ids[key], t.fresh.packages[key] = id, id
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// c is the collation of texts that do not come from a column.
func (s *Store) c() string {
	if s.dialect == PostgreSQL {
		return ` COLLATE "C"`
	}
	return ""
}
