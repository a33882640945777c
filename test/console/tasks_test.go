package console_test

import (
	"strings"
	"testing"
)

func TestSignIn(t *testing.T) {
	w := seeded(t)
	b := w.tab()
	b.open("/images?search=nginx")
	b.at("Sign in")
	b.fill("Token", "assay_wrong")
	b.click(button("Sign in"))
	b.see("Not signed in")
	if got := b.address(); got != "/signin" {
		t.Errorf("after a wrong token: %s", got)
	}
	b.fill("Token", w.admin)
	b.click(button("Sign in"))
	b.at("Images")
	if got := b.address(); got != "/images?search=nginx" {
		t.Errorf("the page that was wanted is forgotten: %s", got)
	}
	for _, name := range b.rows("Image") {
		if !strings.Contains(name, "nginx") {
			t.Errorf("the filter is lost: %s", name)
		}
	}
}
