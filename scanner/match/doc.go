// Package match finds the vulnerabilities of an SBOM with Grype's matchers.
//
// It gives the matches that the stock grype command gives with its default
// configuration for the same SBOM and database, in a fixed order and without
// duplicates. What differs is what happens when the database cannot be read:
// grype logs it and goes on with fewer matches; here the SBOM has no result.
package match
