package policies

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// What the documentation of kinds shows can be used as it stands.
func TestDocumentedKinds(t *testing.T) {
	page, err := os.ReadFile("../docs/kinds.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) != 2 {
		t.Fatalf("%d blocks", len(blocks))
	}
	for _, b := range blocks {
		text := strings.ReplaceAll("\n"+b[1], "\n  ", "\n")
		if strings.HasPrefix(b[1], "apiVersion") {
			text = b[1]
		}
		set, err := Parse("kinds.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		if len(set.Settings.CustomKinds)+len(set.Policies) == 0 {
			t.Errorf("%s\nhas neither kinds nor a policy", text)
		}
	}
}
