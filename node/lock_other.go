//go:build !linux

package node

import "errors"

func lock(string) (func(), error) { return nil, errors.New("the agent of a node runs on Linux alone") }
