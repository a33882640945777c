package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/assay-dev/assay/store/migrations"
)

// migrate brings the schema to this program's version. A schema that is newer than
// the program is left as it is, and refused.
func migrate(ctx context.Context, db *sql.DB, d Dialect) error {
	provider, err := migrations.Provider(db, string(d))
	if err != nil {
		return err
	}
	at, err := provider.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("reading the version of the schema: %w", err)
	}
	if newest := provider.ListSources()[len(provider.ListSources())-1].Version; at > newest {
		return fmt.Errorf("%w: the database has version %d of the schema, this program knows %d: run the program that migrated it, or a newer one", ErrNewerSchema, at, newest)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrating the schema: %w", err)
	}
	return nil
}
