// Command program is what is found in images of the tests: a Go binary with a dependency.
package main

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

func main() { fmt.Println(digest.FromString("x")) }
