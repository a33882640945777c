package shop

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Package is one line of a packages.txt.
type Package struct {
	Type          string // deb, npm or pypi
	Name, Version string
	// Source and SourceVersion name the Debian source package where it is called
	// or numbered otherwise; advisories are about source packages.
	Source, SourceVersion string
}

// ReadPackages reads a packages.txt: a package a line, "#" starts a comment.
func ReadPackages(r io.Reader) ([]Package, error) {
	var list []Package
	in := bufio.NewScanner(r)
	for n := 1; in.Scan(); n++ {
		line, _, _ := strings.Cut(in.Text(), "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
			continue
		case len(fields) < 3 || fields[0] != "deb" && len(fields) > 3 || len(fields) > 5:
			return nil, fmt.Errorf("line %d: want TYPE NAME VERSION, not %q", n, line)
		case fields[0] != "deb" && fields[0] != "npm" && fields[0] != "pypi":
			return nil, fmt.Errorf("line %d: the type must be deb, npm or pypi, not %q", n, fields[0])
		}
		p := Package{Type: fields[0], Name: fields[1], Version: fields[2]}
		if len(fields) > 3 {
			p.Source = fields[3]
		}
		if len(fields) > 4 {
			p.SourceVersion = fields[4]
		}
		list = append(list, p)
	}
	return list, in.Err()
}

const osRelease = `PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
VERSION_CODENAME=bookworm
ID=debian
HOME_URL="https://www.debian.org/"
SUPPORT_URL="https://www.debian.org/support"
BUG_REPORT_URL="https://bugs.debian.org/"
`

// base is the layer of the distribution: its release files and dpkg's status.
func base(packages []Package) []file {
	var status strings.Builder
	for _, p := range packages {
		if p.Type != "deb" {
			continue
		}
		fmt.Fprintf(&status, "Package: %s\nStatus: install ok installed\nPriority: optional\nSection: utils\nInstalled-Size: 512\n", p.Name)
		fmt.Fprintf(&status, "Maintainer: Shop Example <shop@example.com>\nArchitecture: amd64\n")
		if p.Source != "" && (p.Source != p.Name || p.SourceVersion != "") {
			status.WriteString("Source: " + p.Source)
			if p.SourceVersion != "" {
				fmt.Fprintf(&status, " (%s)", p.SourceVersion)
			}
			status.WriteString("\n")
		}
		fmt.Fprintf(&status, "Version: %s\nDescription: %s\n\n", p.Version, p.Name)
	}
	return []file{
		{name: "etc/debian_version", data: []byte("12.2\n")},
		{name: "etc/os-release", data: []byte(osRelease)},
		{name: "usr/lib/os-release", data: []byte(osRelease)},
		{name: "var/lib/dpkg/status", data: []byte(status.String())},
	}
}

// npm is the layer of installed npm packages.
func npm(packages []Package) []file {
	var files []file
	for _, p := range packages {
		if p.Type != "npm" {
			continue
		}
		files = append(files, file{
			name: "srv/shop/node_modules/" + p.Name + "/package.json",
			data: fmt.Appendf(nil, "{\n  \"name\": %q,\n  \"version\": %q,\n  \"main\": \"index.js\"\n}\n", p.Name, p.Version),
		})
	}
	return files
}

// python is the layer of installed Python packages.
func python(packages []Package) []file {
	var files []file
	for _, p := range packages {
		if p.Type != "pypi" {
			continue
		}
		dir := fmt.Sprintf("%s-%s.dist-info/", p.Name, p.Version)
		site := "usr/local/lib/python3.11/site-packages/"
		files = append(files,
			file{name: site + dir + "INSTALLER", data: []byte("pip\n")},
			file{name: site + dir + "METADATA", data: fmt.Appendf(nil, "Metadata-Version: 2.1\nName: %s\nVersion: %s\n", p.Name, p.Version)},
			file{name: site + dir + "RECORD", data: []byte(dir + "INSTALLER,,\n" + dir + "METADATA,,\n" + dir + "RECORD,,\n")},
		)
	}
	return files
}
