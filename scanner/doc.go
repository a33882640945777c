// Package scanner turns what a user names (a reference, an archive, a
// directory or an SBOM) into an SBOM and, through a [Matcher], into an
// [api.Scan].
//
// It owns the way from the reference to the layers: the pull, the choice of a
// platform, the verification of every digest and the bounds on bytes, files,
// layers and time. Syft only sees layers that passed. The source is always
// named and never guessed: with guessing, a damaged archive reads as another
// kind of source that holds no packages, which looks like a clean image.
//
// An image that could not be scanned to the end has an error and the result
// Unknown; it never looks like an image without vulnerabilities.
package scanner

import (
	// Syft reads the RPM database through database/sql under the name "sqlite".
	// Grype registers this very driver; another one of that name would panic.
	_ "github.com/glebarez/go-sqlite"
)
