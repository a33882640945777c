package query

// Type is what the values of a field are.
type Type int

// Types of fields.
const (
	Text   Type = iota // compared byte-wise
	Number             // a decimal number
	Bool               // true or false
	Time               // RFC 3339
)

// Field is one field of the vulnerability data set (api.Event).
type Field struct {
	Name string
	Type Type
	// List fields hold when a member does.
	List bool
	// Instance fields are those of a running instance: one instance must
	// satisfy all terms about them.
	Instance bool
}

// Fields lists the data set.
func Fields() []Field {
	return []Field{
		{Name: "time", Type: Time},
		{Name: "registry"}, {Name: "repository"}, {Name: "tag"}, {Name: "digest"}, {Name: "image"},
		{Name: "result"}, {Name: "previous_result"}, {Name: "source"}, {Name: "error"},
		{Name: "changed", Type: Bool}, {Name: "fixable", Type: Bool}, {Name: "kev", Type: Bool},
		{Name: "max_cvss_score", Type: Number}, {Name: "epss", Type: Number},
		{Name: "cve", List: true}, {Name: "package", List: true},
		{Name: "cluster", Instance: true}, {Name: "namespace", Instance: true},
		{Name: "pod", Instance: true}, {Name: "container", Instance: true},
	}
}

// Lookup finds a field by name.
func Lookup(name string) (Field, bool) {
	for _, f := range Fields() {
		if f.Name == name {
			return f, true
		}
	}
	return Field{}, false
}
