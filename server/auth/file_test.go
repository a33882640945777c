package auth

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestParseTokens(t *testing.T) {
	users, err := parseTokens([]byte("a,alice,1\n\nb,bob,2,\"dev,ops\"\nc,carol,,\n"))
	if err != nil || len(users) != 3 {
		t.Fatal(users, err)
	}
	if u := users[Hash("b")]; u.Name != "bob" || u.UID != "2" || strings.Join(u.Groups, "|") != "dev|ops" {
		t.Errorf("%+v", u)
	}
	if u := users[Hash("c")]; u.Name != "carol" || len(u.Groups) != 0 {
		t.Errorf("%+v", u)
	}
}

// Every faulty line is named, and nothing that is on it.
func TestParseTokensRefuses(t *testing.T) {
	_, err := parseTokens([]byte("secret1,a,1\nsecret2\n,b,1\nsecret3,,1\nsecret1,c,1\nsecret4,d,1,x,y\nsecret5 ,d,1\n"))
	want := `line 2: want token,user,uid or token,user,uid,"group1,group2"; found 1 columns
line 3: the token is empty or has white space
line 4: the user name is empty
line 5: the token is on an earlier line too
line 6: want token,user,uid or token,user,uid,"group1,group2"; found 5 columns
line 7: the token is empty or has white space`
	if err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	if _, err := parseTokens([]byte("a,b,1\nsecret\",d\n")); err == nil || !strings.Contains(err.Error(), "line 2") || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

func FuzzParseTokens(f *testing.F) {
	f.Add([]byte("a,alice,1\nb,bob,2,\"dev,ops\"\n"))
	f.Add([]byte("token\",x"))
	f.Fuzz(func(t *testing.T, text []byte) {
		users, err := parseTokens(text)
		if err != nil {
			return
		}
		if users[Hash("")] != nil {
			t.Error("the empty token is somebody's")
		}
		for _, u := range users {
			if u.Name == "" {
				t.Error("a user without name")
			}
		}
	})
}

func TestFile(t *testing.T) {
	path := tempFile(t, "first-token,a,1\n")
	f, err := newFile(path, parseTokens, logger())
	if err != nil {
		t.Fatal(err)
	}
	expect := func(what string, tokens ...string) {
		t.Helper()
		got := f.get()
		if len(got) != len(tokens) {
			t.Errorf("%s: %d tokens, want %v", what, len(got), tokens)
		}
		for _, token := range tokens {
			if got[Hash(token)] == nil {
				t.Errorf("%s: %s is not known", what, token)
			}
		}
	}
	expect("at first", "first-token")
	replace(t, path, "other-token,a,1\n")
	expect("replaced", "other-token")
	replace(t, path, "broken-token\n")
	expect("malformed", "other-token")
	replace(t, path, strings.Repeat("#", maxFile+1))
	expect("too large", "other-token")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect("gone")
	replace(t, path, "third-token,a,1\n")
	expect("back", "third-token")
	// In place, of the same size, at once.
	for _, token := range []string{"token-1", "token-2", "token-3"} {
		if err := os.WriteFile(path, []byte(token+",a,1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		expect("in place", token)
	}
	// By rename, with size and time of the one before.
	at := func(when time.Time, path string) {
		t.Helper()
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-time.Hour)
	for _, token := range []string{"token-4", "token-5"} {
		next := tempFile(t, token+",a,1\n")
		at(past, next)
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		expect("renamed", token)
	}
	// In place, of the same size, at a time that says nothing yet.
	future := time.Now().Add(time.Hour)
	for _, token := range []string{"token-6", "token-7"} {
		if err := os.WriteFile(path, []byte(token+",a,1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		at(future, path)
		expect("at an equal time", token)
	}
	if log := logs.String(); strings.Contains(log, "broken-token") || !strings.Contains(log, "found 1 columns") {
		t.Error("the log shows the token, or not the fault")
	}
}

// A ConfigMap or Secret changes by the swap of a link.
func TestFileFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"1", "2"} {
		if err := os.Mkdir(dir+"/"+name, 0o700); err != nil {
			t.Fatal(err)
		}
		replace(t, dir+"/"+name+"/tokens", "token-"+name+",a,1\n")
	}
	link := func(to string) {
		t.Helper()
		if err := os.Symlink(to, dir+"/next"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dir+"/next", dir+"/..data"); err != nil {
			t.Fatal(err)
		}
	}
	link("1")
	f, err := newFile(dir+"/..data/tokens", parseTokens, logger())
	if err != nil {
		t.Fatal(err)
	}
	link("2")
	if f.get()[Hash("token-2")] == nil {
		t.Error("the swap was not seen")
	}
}
