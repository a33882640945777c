package api

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestScope(t *testing.T) {
	for text, want := range map[string]Scope{
		"":                                 {},
		"all":                              {},
		"cluster=prod-eu":                  {Cluster: "prod-eu"},
		"group=eu":                         {Group: "eu"},
		"cluster=prod-1,group=prod":        {Cluster: "prod-1", Group: "prod"},
		"registry=quay.io/acme/":           {Registry: "quay.io/acme"},
		"registry=quay.io,cluster=prod-eu": {Cluster: "prod-eu", Registry: "quay.io"},
		"registry=Quay.IO:443/acme":        {Registry: "quay.io/acme"},
		"registry=registry-1.docker.io":    {Registry: "docker.io"},
		"registry=Index.docker.io/acme/":   {Registry: "docker.io/acme"},
		"registry=Foo":                     {Registry: "foo:443"},
		"registry=acme":                    {Registry: "acme"},
		"registry=a.b:443:443":             {Registry: "a.b:443:443"},
	} {
		got, err := ParseScope(text)
		if err != nil || got != want || got.All() != (want == Scope{}) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
		text, err := json.Marshal(got)
		var back Scope
		if err != nil || json.Unmarshal(text, &back) != nil || back != want {
			t.Errorf("%s comes back as %v, %v", text, back, err)
		}
	}
	for _, text := range []string{"prod", "cluster=", "cluster=a,cluster=b", "registry=/", "cluster=a,", "namespace=a", "all,cluster=a", "ALL", "cluster= a", "group=a ", "group=" + strings.Repeat("a", 2000)} {
		if s, err := ParseScope(text); err == nil {
			t.Errorf("%.50q is read as %v", text, s)
		}
	}
	for _, s := range []Scope{{Cluster: "a,registry=b"}, {Registry: "Quay.io"}} {
		if text, err := json.Marshal(s); err == nil {
			t.Errorf("%+v is written: %s", s, text)
		}
	}
}

func TestScopeAllows(t *testing.T) {
	acme := Scope{Registry: "quay.io/acme"}
	for reference, want := range map[string]bool{
		"quay.io/acme/app:1":        true,
		"quay.io/acme/team/app":     true,
		"quay.io/acme":              true,
		"Quay.IO/acme/app:1":        true,
		"quay.io:443/acme/app":      true,
		"quay.io:8443/acme/app":     false,
		"quay.io:443/other/app":     false,
		"quay.io/acmecorp/app":      false,
		"quay.io/other/app":         false,
		"evil.io/quay.io/acme/app":  false,
		"app":                       false,
		"quay.io/acme/../other/app": false,
		"":                          false,
	} {
		if got := acme.AllowsImage(reference); got != want {
			t.Errorf("%q: %v", reference, got)
		}
	}
	if !(Scope{Registry: "docker.io/library"}).AllowsImage("nginx") || !(Scope{}).AllowsImage("anything at all") {
		t.Error("a normalised reference, or any without bound, is refused")
	}
	hub, err := ParseScope("registry=registry.hub.docker.com/library")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nginx", "docker.io/nginx", "index.docker.io/library/nginx", "Registry-1.docker.io:443/library/nginx"} {
		if !hub.AllowsImage(name) {
			t.Errorf("%s does not allow %s", hub, name)
		}
	}
	for text, want := range map[string]bool{
		"all": true, "cluster=a": true, "cluster=a,group=g": true, "cluster=b": false, "cluster=A": false, "group=g": false, "registry=quay.io": false, "cluster=a,registry=quay.io": false,
	} {
		s, err := ParseScope(text)
		if err != nil || s.AllowsCluster("a") != want {
			t.Errorf("%s allows a cluster: %v, %v", text, !want, err)
		}
		if !s.All() && s.AllowsCluster("") {
			t.Errorf("%s allows a cluster without a name", text)
		}
	}
}

func TestScopeSpeaksOf(t *testing.T) {
	type subject struct {
		cluster, groups, name string
	}
	for text, yes := range map[string][]subject{
		"all":                         {{"a", "", "quay.io/x"}, {"", "", "quay.io/x"}},
		"cluster=a":                   {{"a", "", "quay.io/x"}},
		"group=g":                     {{"a", "g", "quay.io/x"}, {"b", "f g", "quay.io/x"}},
		"cluster=a,group=g":           {{"a", "", "quay.io/x"}, {"b", "g", "docker.io/x"}},
		"registry=quay.io":            {{"a", "", "quay.io/x"}, {"", "", "quay.io/x"}, {"b", "g", "quay.io/x"}},
		"cluster=a,registry=quay.io":  {{"a", "", "quay.io/x"}},
		"group=g,registry=quay.io/x/": {{"b", "g", "quay.io/x"}, {"b", "g", "quay.io/x/y"}},
	} {
		s, err := ParseScope(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range yes {
			if !s.SpeaksOf(x.cluster, strings.Fields(x.groups), x.name) {
				t.Errorf("%s does not speak of %v", text, x)
			}
		}
	}
	for text, no := range map[string][]subject{
		"cluster=a":                  {{"b", "", "quay.io/x"}, {"", "", "quay.io/x"}, {"b", "a", "quay.io/x"}},
		"group=g":                    {{"g", "", "quay.io/x"}, {"a", "h", "quay.io/x"}, {"", "g", "quay.io/x"}},
		"cluster=a,group=g":          {{"b", "h", "quay.io/x"}, {"", "", "quay.io/x"}},
		"registry=quay.io":           {{"a", "", "quay.io.evil/x"}, {"", "", "docker.io/x"}},
		"cluster=a,registry=quay.io": {{"b", "", "quay.io/x"}, {"a", "", "docker.io/x"}},
	} {
		s, err := ParseScope(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range no {
			if s.SpeaksOf(x.cluster, strings.Fields(x.groups), x.name) {
				t.Errorf("%s speaks of %v", text, x)
			}
		}
	}
}
