// Package vulndb keeps the vulnerability database that images are matched
// against: Grype's, schema 6.
//
// A [Store] holds one directory per generation of the database and a file that
// names the current one. What comes in by [Store.Update] or [Store.Import] is
// unpacked within bounds, verified and indexed in a directory of its own before
// it becomes current in one step; the one that served until then is kept.
//
// [Build] makes such a database from advisories in OSV's format, for own
// advisories, air-gapped sites and tests.
//
// A database that is missing, too old or damaged is an error ([ErrMissing],
// [ErrExpired], [ErrCorrupt]); it never looks like one that knows no vulnerabilities.
package vulndb
