package api

import (
	"fmt"
	"strings"
	"time"
)

// DatabaseState is what a server, or a folder, knows of its vulnerability databases.
type DatabaseState struct {
	Schema string `json:"schema"`
	// InUse is the one that images are matched with; absent when there is none.
	InUse *ScanDatabase `json:"inUse,omitempty"`
	// Error is why none can be used, or no newer one; absent when all is well.
	Error string `json:"error,omitempty"`
	// Generations are those that are kept, the last that came first.
	Generations []DatabaseGeneration `json:"generations"`
	// Providers are the sources of the current one, by name.
	Providers []DatabaseProvider `json:"providers,omitempty"`
	// Advisories is what is wrong with the site's own advisories, so that the last
	// good ones are in use; absent when nothing is.
	Advisories string `json:"advisoriesError,omitempty"`
	// LastUpdate is the last try to update; absent before the first.
	LastUpdate *DatabaseUpdate `json:"lastUpdate,omitempty"`
	// HeldUntil is set after a rollback: databases built until then are not fetched again.
	HeldUntil time.Time `json:"heldUntil,omitzero"`
}

// DatabaseGeneration is one vulnerability database that is kept.
type DatabaseGeneration struct {
	Name     string    `json:"name"`
	Path     string    `json:"path,omitempty"`
	Built    time.Time `json:"built,omitzero"`
	Imported time.Time `json:"imported"`
	Version  string    `json:"version,omitempty"`
	Checksum string    `json:"checksum,omitempty"`
	Source   string    `json:"source,omitempty"`
	Bytes    int64     `json:"bytes"`
	// Advisories is the number of the site's own that are merged in, Digest that of
	// their content, and Base the checksum of the published database below them.
	Advisories int    `json:"advisories,omitempty"`
	Digest     string `json:"advisoriesDigest,omitempty"`
	Base       string `json:"base,omitempty"`
	// Changes is how it differs from the one that was current when it came; absent
	// where that is not known.
	Changes *DatabaseChanges `json:"changes,omitempty"`
	Current bool             `json:"current,omitempty"`
	Error   string           `json:"error,omitempty"`
}

// DatabaseProvider is a source of vulnerabilities, such as debian or nvd.
type DatabaseProvider struct {
	Name string `json:"name"`
	// Captured is when it was read.
	Captured time.Time `json:"captured,omitzero"`
}

// DatabaseUpdate is a try to update the vulnerability database.
type DatabaseUpdate struct {
	At      time.Time `json:"at"`
	Updated bool      `json:"updated,omitempty"`
	Error   string    `json:"error,omitempty"`
}

// DatabaseChanges counts what one vulnerability database changed against another.
type DatabaseChanges struct {
	// Against is the checksum of the other one.
	Against string `json:"against"`
	// Added, Changed, Removed and Rescored (the same, but for EPSS or KEV) count vulnerabilities.
	Added    int `json:"added"`
	Changed  int `json:"changed"`
	Removed  int `json:"removed"`
	Rescored int `json:"rescored"`
	// Packages of which something else is said.
	Packages int `json:"packages"`
}

// String is such as "12 vulnerabilities added, 3 changed, 1 removed, 4 rescored; 7 packages".
func (c *DatabaseChanges) String() string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{c.Added, "added"}, {c.Changed, "changed"}, {c.Removed, "removed"}, {c.Rescored, "rescored"}} {
		switch {
		case p.n == 0:
		case len(parts) > 0:
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		case p.n == 1:
			parts = append(parts, "1 vulnerability "+p.what)
		default:
			parts = append(parts, fmt.Sprintf("%d vulnerabilities %s", p.n, p.what))
		}
	}
	text := "no vulnerability changed"
	if len(parts) > 0 {
		text = strings.Join(parts, ", ")
	}
	if c.Packages == 1 {
		return text + "; 1 package"
	}
	return fmt.Sprintf("%s; %d packages", text, c.Packages)
}
