package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// decodeWhole is decodeStrict for a document of which each member counts: a member that the type
// does not mark as one that may be left out (omitempty) must be there, and be no null. What is
// missing is never taken for its zero value, which would reset what is in force.
func decodeWhole(text []byte, v any) error {
	if err := decodeStrict(text, v); err != nil {
		return err
	}
	said, err := membersOf(text)
	if err != nil {
		return err
	}
	return said.whole(required(reflect.TypeOf(v).Elem()))
}

// members are those of a JSON object, by their names in lower case, since encoding/json does not
// tell cases apart.
type members map[string]member

// member says of a value only whether it is null.
type member struct{ null bool }

// UnmarshalJSON implements [json.Unmarshaler].
func (m *member) UnmarshalJSON(text []byte) error {
	m.null = isNull(text)
	return nil
}

func membersOf(text []byte) (members, error) {
	var said map[string]member
	if err := json.Unmarshal(text, &said); err != nil {
		return nil, jsonFault(text, err)
	}
	lower := members{}
	for name, value := range said {
		name = strings.ToLower(name)
		lower[name] = member{null: lower[name].null || value.null} // of two spellings either may be the one that counts
	}
	return lower, nil
}

// whole says which of the needed members are not there.
func (said members) whole(needed []string) error {
	var faults []Fault
	for _, name := range needed {
		switch value, ok := said[strings.ToLower(name)]; {
		case !ok:
			faults = append(faults, Fault{Pointer: "/" + name, Detail: "is missing"})
		case value.null:
			faults = append(faults, Fault{Pointer: "/" + name, Detail: "is null"})
		}
	}
	if len(faults) > 0 {
		return &refused{status: http.StatusUnprocessableEntity, detail: "the body leaves out what it must say; nothing was changed", faults: faults}
	}
	return nil
}

// named says which of the members that are set now are not named, if only as null.
func (said members) named(set []string) error {
	var faults []Fault
	for _, name := range set {
		if _, ok := said[strings.ToLower(name)]; !ok {
			faults = append(faults, Fault{Pointer: "/" + name, Detail: "is set now, and the body does not name it; null takes it back"})
		}
	}
	if len(faults) > 0 {
		return &refused{status: http.StatusUnprocessableEntity, detail: "the body leaves out what is set; nothing was changed", faults: faults}
	}
	return nil
}

func isNull(text []byte) bool { return string(bytes.TrimSpace(text)) == "null" }

// required are the members of a struct that cannot be left out.
func required(t reflect.Type) (names []string) {
	for _, f := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" || slices.ContainsFunc(strings.Split(options, ","), func(o string) bool { return o == "omitempty" || o == "omitzero" }) {
			continue
		}
		names = append(names, name)
	}
	return names
}

// plain says what is wrong with a name that people read in lists, logs and terminals.
func plain(pointer, name string) []Fault {
	if i := strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
		return []Fault{{Pointer: pointer, Detail: fmt.Sprintf("has a character that cannot be seen, or is no UTF-8, at byte %d", i)}}
	}
	return nil
}
