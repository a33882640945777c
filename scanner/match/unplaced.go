package match

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/anchore/grype/grype/distro"
	"github.com/anchore/grype/grype/pkg"
	"github.com/anchore/syft/syft/linux"

	"github.com/assay-dev/assay/api"
)

// distributions is a database that tells which distributions it has.
type distributions interface {
	HasDistro(d distro.Distro) (bool, error)
}

// maxUnplaced bounds the distributions that are told apart: an SBOM may name one for each
// of its packages.
const maxUnplaced = 10

// furtherDistros stands for those beyond.
const furtherDistros = "further distributions"

// unplaced counts the packages that only the advisories of a distribution speak of, and
// that Grype silently finds nothing for: none is known that they are of, or one that the
// database does not have. named is the distribution of the SBOM in words, which Grype
// may not know.
func (m *Matcher) unplaced(ctx context.Context, packages []pkg.Package, named string) ([]api.Unplaced, error) {
	known, ok := m.provider.(distributions)
	if !ok {
		return nil, errors.New("it does not tell which distributions it has")
	}
	placed := map[string]bool{}
	counts := map[string]int{}
	for i := range packages {
		p := &packages[i]
		if !ofSystem(p) {
			continue
		}
		if p.Distro == nil {
			counts[named]++
			continue
		}
		key := distroKey(p.Distro)
		has, asked := placed[key]
		if !asked {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			var err error
			if has, err = known.HasDistro(*p.Distro); err != nil {
				return nil, err
			}
			placed[key] = has
		}
		if !has {
			counts[distroText(p.Distro)]++
		}
	}
	return listUnplaced(counts), nil
}

func distroKey(d *distro.Distro) string {
	return strings.Join(append([]string{string(d.Type), d.Version, d.Codename}, d.Channels...), "\x00")
}

// distroText is a distribution as "debian 99", bounded.
func distroText(d *distro.Distro) string {
	return clip(strings.TrimSpace(string(d.Type) + " " + cmp.Or(d.Version, d.Codename)))
}

// releaseText is the distribution that an SBOM names; "" where it names none.
func releaseText(r *linux.Release) string {
	if r == nil {
		return ""
	}
	return clip(strings.TrimSpace(cmp.Or(r.ID, strings.ToLower(r.Name)) + " " + cmp.Or(r.VersionID, r.VersionCodename)))
}

// maxDistroText bounds the words for a distribution, in runes of at most four bytes.
const maxDistroText = 32

func clip(text string) string {
	if r := []rune(text); len(r) > maxDistroText {
		return string(r[:maxDistroText-1]) + "…"
	}
	return text
}

// listUnplaced puts the most first.
func listUnplaced(counts map[string]int) []api.Unplaced {
	var list []api.Unplaced
	for text, n := range counts {
		list = append(list, api.Unplaced{Distro: text, Packages: n})
	}
	slices.SortFunc(list, func(a, b api.Unplaced) int {
		return cmp.Or(-cmp.Compare(a.Packages, b.Packages), strings.Compare(a.Distro, b.Distro))
	})
	if len(list) <= maxUnplaced {
		return list
	}
	rest := api.Unplaced{Distro: furtherDistros}
	for _, u := range list[maxUnplaced-1:] {
		rest.Packages += u.Packages
	}
	return append(list[:maxUnplaced-1], rest)
}
