// Package gitrepo takes policies from a git repository that it polls. It stands
// apart from package source, so that who watches folders links no git.
package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/policies"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"github.com/go-git/go-git/v5/storage/memory"
	"golang.org/x/tools/txtar"
)

// Source is a folder of policies in a git repository. Nothing is written to
// disk; a new commit is fetched alone, without history. A revision is a commit.
type Source struct {
	// URL is https://, ssh:// (or user@host:path), or file://, which needs the git
	// command. It holds no password.
	URL string
	// Ref is a branch, a tag or a full ref name; or a commit, which is fetched
	// once, from a server that allows it. "" is the repository's HEAD.
	Ref string
	// Folder holds the policies; "" is the whole repository.
	Folder string
	// Every is the time between two looks; 0 is a minute.
	Every time.Duration
	// Timeout bounds one look; 0 is two minutes.
	Timeout time.Duration
	// MaxBytes bounds what one commit holds, both packed and unpacked; 0 is 64 MiB.
	MaxBytes int64

	// Username and PasswordFile (a password or token) are for https; the files
	// are read at each look.
	Username, PasswordFile string
	// CAFile holds further certificates in PEM to trust for https.
	CAFile string
	// SSHKeyFile is a private key without passphrase; "" uses the agent.
	// KnownHostsFile is "" for the user's own.
	SSHKeyFile, KnownHostsFile string

	Options policies.Options
	Log     *slog.Logger // nil: none
}

var commitID = regexp.MustCompile(`^[0-9a-f]{40}$`)

// fetched is the ref that local objects hang on.
const fetched plumbing.ReferenceName = "refs/assay"

// Run implements [source.Source]. A repository that cannot be reached is an update
// with an error, and is tried again.
func (g Source) Run(ctx context.Context, emit func(source.Update)) error {
	if g.Every == 0 {
		g.Every = time.Minute
	}
	if g.Timeout == 0 {
		g.Timeout = 2 * time.Minute
	}
	if g.MaxBytes == 0 {
		g.MaxBytes = 64 << 20
	}
	if err := g.check(); err != nil {
		return err
	}
	emit = source.Changes(emit)
	var have plumbing.Hash
	var last source.Update
	for ctx.Err() == nil {
		now, u, err := g.look(ctx, have)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			emit(source.Update{Err: fmt.Errorf("reading %s: %w", g.URL, err)})
		case now != have:
			have, last = now, u
			fallthrough
		default:
			emit(last)
		}
		select {
		case <-ctx.Done():
		case <-time.After(g.Every):
		}
	}
	return nil
}

// check finds what no try can mend.
func (g Source) check() error {
	e, err := transport.NewEndpoint(g.URL)
	if err != nil {
		return fmt.Errorf("git repository: %w", err)
	}
	if e.Password != "" {
		return errors.New("git repository: the URL must hold no password; put it into a file")
	}
	if !slices.Contains([]string{"https", "ssh", "file"}, e.Protocol) {
		return fmt.Errorf("git repository: %s is not supported; use https, ssh or file", e.Protocol)
	}
	if g.Folder != "" && !fs.ValidPath(g.Folder) {
		return fmt.Errorf("git repository: %q is no folder inside it", g.Folder)
	}
	return nil
}

// look asks where the ref is and, unless that is what the caller has, loads the
// policies there. The error is that of reaching the repository; faults in the
// files are in the update.
func (g Source) look(ctx context.Context, have plumbing.Hash) (plumbing.Hash, source.Update, error) {
	ctx, cancel := context.WithTimeout(ctx, g.Timeout)
	defer cancel()
	if commitID.MatchString(g.Ref) && have == plumbing.NewHash(g.Ref) {
		return have, source.Update{}, nil
	}
	auth, ca, err := g.credentials()
	if err != nil {
		return have, source.Update{}, err
	}
	store := &bounded{Storage: memory.NewStorage(), max: g.MaxBytes}
	remote := git.NewRemote(store, &config.RemoteConfig{Name: "origin", URLs: []string{g.URL}})
	name, at := g.Ref, plumbing.NewHash(g.Ref)
	if !commitID.MatchString(g.Ref) {
		refs, err := remote.ListContext(ctx, &git.ListOptions{Auth: auth, CABundle: ca})
		if err != nil {
			return have, source.Update{}, err
		}
		if name, at, err = pick(refs, g.Ref); err != nil {
			return have, source.Update{}, err
		}
		if at == have {
			return have, source.Update{}, nil
		}
	}
	err = remote.FetchContext(ctx, &git.FetchOptions{
		Auth: auth, CABundle: ca, Depth: 1, Tags: git.NoTags,
		RefSpecs: []config.RefSpec{config.RefSpec("+" + name + ":" + fetched.String())},
	})
	if errors.As(err, new(tooLarge)) { // and stays so: it is not fetched again
		return at, source.Update{Revision: at.String(), Err: err}, nil
	}
	if err != nil {
		return have, source.Update{}, err
	}
	ref, err := store.Reference(fetched)
	if err != nil {
		return have, source.Update{}, err
	}
	commit, err := peel(store, ref.Hash())
	if err != nil {
		return have, source.Update{}, err
	}
	u := source.Update{Revision: commit.Hash.String()}
	files, err := g.files(commit)
	if err == nil {
		u.Set, err = source.Load(files, g.Options, g.Log)
	}
	u.Err = err
	// The ref can have moved on since it was listed.
	return ref.Hash(), u, nil
}

// pick finds a ref as git does: by its full name, then as a tag, then as a branch.
func pick(refs []*plumbing.Reference, want string) (string, plumbing.Hash, error) {
	byName := map[plumbing.ReferenceName]*plumbing.Reference{}
	for _, r := range refs {
		byName[r.Name()] = r
	}
	if want == "" {
		want = plumbing.HEAD.String()
	}
	for _, prefix := range []string{"", "refs/", "refs/tags/", "refs/heads/"} {
		r := byName[plumbing.ReferenceName(prefix+want)]
		if r != nil && r.Type() == plumbing.SymbolicReference {
			r = byName[r.Target()]
		}
		if r != nil {
			return r.Name().String(), r.Hash(), nil
		}
	}
	return "", plumbing.ZeroHash, fmt.Errorf("it has no ref %s", want)
}

// peel follows annotated tags to their commit.
func peel(s *bounded, h plumbing.Hash) (*object.Commit, error) {
	for range 8 {
		tag, err := object.GetTag(s, h)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			return object.GetCommit(s, h)
		}
		if err != nil {
			return nil, err
		}
		h = tag.Target
	}
	return nil, errors.New("it has tags of tags of tags")
}

func (g Source) credentials() (transport.AuthMethod, []byte, error) {
	e, err := transport.NewEndpoint(g.URL)
	if err != nil {
		return nil, nil, err
	}
	switch e.Protocol {
	case "https":
		var ca []byte
		if g.CAFile != "" {
			if ca, err = os.ReadFile(g.CAFile); err != nil {
				return nil, nil, err
			}
		}
		if g.PasswordFile == "" {
			return nil, ca, nil
		}
		password, err := os.ReadFile(g.PasswordFile)
		if err != nil {
			return nil, nil, err
		}
		user := g.Username
		if user == "" {
			user = "git" // hosts that take tokens take any name
		}
		return &http.BasicAuth{Username: user, Password: strings.TrimSpace(string(password))}, ca, nil
	case "ssh":
		user := e.User
		if user == "" {
			user = "git"
		}
		if g.SSHKeyFile == "" && g.KnownHostsFile == "" {
			return nil, nil, nil // the agent and the user's own known hosts
		}
		var known []string
		if g.KnownHostsFile != "" {
			known = []string{g.KnownHostsFile}
		}
		check, err := ssh.NewKnownHostsCallback(known...)
		if err != nil {
			return nil, nil, err
		}
		hosts := ssh.HostKeyCallbackHelper{HostKeyCallback: check}
		if g.SSHKeyFile == "" {
			a, err := ssh.NewSSHAgentAuth(user)
			if err != nil {
				return nil, nil, err
			}
			a.HostKeyCallbackHelper = hosts
			return a, nil, nil
		}
		a, err := ssh.NewPublicKeysFromFile(user, g.SSHKeyFile, "")
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", g.SSHKeyFile, err)
		}
		a.HostKeyCallbackHelper = hosts
		return a, nil, nil
	}
	return nil, nil, nil
}

// files are the files of the commit's folder that can be policies. A link
// counts as the file that it leads to, inside the folder.
func (g Source) files(commit *object.Commit) (fs.FS, error) {
	tree, err := commit.Tree()
	if err == nil && g.Folder != "" && g.Folder != "." {
		tree, err = tree.Tree(g.Folder)
	}
	if errors.Is(err, object.ErrDirectoryNotFound) {
		return nil, fmt.Errorf("commit %s has no folder %s", commit.Hash, g.Folder)
	}
	if err != nil {
		return nil, err
	}
	var archive txtar.Archive
	var diags policies.Diagnostics
	total := int64(0)
	walker := object.NewTreeWalker(tree, true, nil)
	defer walker.Close()
	for {
		name, entry, err := walker.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if hidden(name) || !fs.ValidPath(name) || !slices.Contains([]string{".yaml", ".yml", ".json", ".rego"}, strings.ToLower(path.Ext(name))) {
			continue
		}
		switch entry.Mode {
		case filemode.Regular, filemode.Executable, filemode.Deprecated, filemode.Symlink:
		default:
			continue // folders and submodules
		}
		text, err := read(tree, name, 0)
		var bad badLink
		if errors.As(err, &bad) {
			diags = append(diags, policies.Diagnostic{File: name, Message: bad.Error()})
			continue
		}
		if err != nil {
			return nil, err
		}
		if total += int64(len(text)); total > g.MaxBytes {
			return nil, tooLarge(g.MaxBytes)
		}
		archive.Files = append(archive.Files, txtar.File{Name: name, Data: text})
	}
	if len(diags) > 0 {
		return nil, diags
	}
	return txtar.FS(&archive)
}

// hidden says whether [policies.Load] leaves the file out for its name.
func hidden(name string) bool {
	return strings.HasPrefix(name, ".") || strings.Contains(name, "/.")
}

// badLink is a link in the tree that is not followed, and why.
type badLink string

func (b badLink) Error() string { return string(b) }

// read is the content of a file of the tree, one byte longer than a policy may
// be at most.
func read(tree *object.Tree, name string, links int) ([]byte, error) {
	file, err := tree.File(name)
	if errors.Is(err, object.ErrFileNotFound) {
		return nil, badLink("is a link that leads to no file")
	}
	if err != nil {
		return nil, err
	}
	r, err := file.Reader()
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, policies.MaxFile+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	if file.Mode != filemode.Symlink {
		return text, nil
	}
	target := path.Join(path.Dir(name), string(text))
	switch {
	case path.IsAbs(string(text)) || !fs.ValidPath(target):
		return nil, badLink("is a link that leads out of the folder")
	case links > 8:
		return nil, badLink("is a link in a circle")
	}
	return read(tree, target, links+1)
}

// bounded is a storage in memory that refuses packs that are too large, before
// they are unpacked.
type bounded struct {
	*memory.Storage
	max int64
}

// tooLarge is the bound that a commit exceeds.
type tooLarge int64

func (t tooLarge) Error() string { return fmt.Sprintf("the commit has more than %d bytes", int64(t)) }

// PackfileWriter receives what is fetched.
func (b *bounded) PackfileWriter() (io.WriteCloser, error) { return &pack{to: b}, nil }

type pack struct {
	bytes.Buffer
	to *bounded
}

func (p *pack) Write(text []byte) (int, error) {
	if int64(p.Len()+len(text)) > p.to.max {
		return 0, tooLarge(p.to.max)
	}
	return p.Buffer.Write(text)
}

func (p *pack) Close() error {
	if p.Len() == 0 {
		return nil
	}
	if err := p.measure(); err != nil {
		return err
	}
	parser, err := packfile.NewParserWithStorage(packfile.NewScanner(bytes.NewReader(p.Bytes())), p.to.Storage)
	if err != nil {
		return err
	}
	_, err = parser.Parse()
	return err
}

// measure adds up what the objects have unpacked. The scanner holds each to the
// size that it declares; a delta declares in its head the size of what it makes.
func (p *pack) measure() error {
	s := packfile.NewScanner(bytes.NewReader(p.Bytes()))
	_, count, err := s.Header()
	if err != nil {
		return err
	}
	total := int64(0)
	for range count {
		h, err := s.NextObjectHeader()
		if err != nil {
			return err
		}
		if total += h.Length; h.Length < 0 || total < 0 || total > p.to.max {
			return tooLarge(p.to.max)
		}
		var head prefix
		if _, _, err := s.NextObject(&head); err != nil {
			return err
		}
		if h.Type.IsDelta() {
			size := head.deltaSize()
			if total += size; size < 0 || total < 0 || total > p.to.max {
				return tooLarge(p.to.max)
			}
		}
	}
	return nil
}

// prefix keeps the first bytes that are written: two sizes of at most 10 each.
type prefix struct {
	text [20]byte
	n    int
}

func (p *prefix) Write(b []byte) (int, error) {
	p.n += copy(p.text[p.n:], b)
	return len(b), nil
}

// deltaSize is the second number of a delta's head, base 128 with the low end
// first; -1 if it is none.
func (p *prefix) deltaSize() int64 {
	rest := p.text[:p.n]
	var size int64 = -1
	for range 2 {
		size = 0
		for shift := 0; ; shift += 7 {
			if len(rest) == 0 || shift > 56 {
				return -1
			}
			b := rest[0]
			rest = rest[1:]
			size |= int64(b&0x7f) << shift
			if b&0x80 == 0 {
				break
			}
		}
	}
	return size
}
