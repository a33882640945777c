package policies

import (
	"regexp/syntax"
	"unicode/utf8"
)

// pattern is a regular expression on image references, and the texts that each
// reference that it matches has at fixed places.
type pattern struct {
	expr string
	// literals maps an offset in runes to the text there. It is empty unless the
	// expression is anchored at the start.
	literals map[int]string
}

func newPattern(expr string) pattern {
	return pattern{expr: expr, literals: literalsOf(expr)}
}

// literalsOf walks an anchored expression for as long as each part of it matches
// a fixed number of runes: ^registry.example.com/ has "registry" at 0, "example"
// at 9 and "com/" at 17, since a dot is any one rune.
func literalsOf(expr string) map[int]string {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil
	}
	parts := flat(re.Simplify())
	if len(parts) == 0 || parts[0].Op != syntax.OpBeginText {
		return nil
	}
	found, offset, text, at := map[int]string{}, 0, "", 0
	end := func() {
		if text != "" {
			found[at] = text
		}
		text = ""
	}
	for _, part := range parts[1:] {
		switch {
		case part.Op == syntax.OpLiteral && part.Flags&syntax.FoldCase == 0:
			if text == "" {
				at = offset
			}
			text += string(part.Rune)
			offset += len(part.Rune)
			continue
		case part.Op == syntax.OpLiteral:
			offset += len(part.Rune)
		case part.Op == syntax.OpAnyChar, part.Op == syntax.OpAnyCharNotNL, part.Op == syntax.OpCharClass:
			offset++
		default:
			end()
			return found
		}
		end()
	}
	end()
	return found
}

// flat is a concatenation's parts, those of nested ones and of groups in line.
func flat(re *syntax.Regexp) []*syntax.Regexp {
	if re.Op != syntax.OpConcat && re.Op != syntax.OpCapture {
		return []*syntax.Regexp{re}
	}
	var parts []*syntax.Regexp
	for _, sub := range re.Sub {
		parts = append(parts, flat(sub)...)
	}
	return parts
}

// maxOffsets bounds the places of a reference that decisions prepare.
const maxOffsets = 32

// prefilter picks the place at which every pattern has a literal, the one whose
// shortest literal is longest, and gives these literals: a reference with none of
// them there matches none of the patterns. It is -1 when there is no such place.
func (g *generator) prefilter(patterns []pattern) (offset int, texts []string) {
	offset, longest := -1, 0
	for at := range patterns[0].literals {
		if at > 0 && !g.offsets[at] && len(g.offsets) >= maxOffsets {
			continue
		}
		shortest := utf8.RuneCountInString(patterns[0].literals[at])
		for _, p := range patterns[1:] {
			shortest = min(shortest, utf8.RuneCountInString(p.literals[at]))
		}
		if shortest > longest || shortest == longest && shortest > 0 && at < offset {
			offset, longest = at, shortest
		}
	}
	if offset < 0 {
		return -1, nil
	}
	if offset > 0 {
		g.offsets[offset] = true
	}
	for _, p := range patterns {
		texts = append(texts, p.literals[offset])
	}
	return offset, texts
}
