//go:build !linux

package node

import (
	"errors"
	"os"
	"os/exec"
	"time"
)

var errLinux = errors.New("the agent of a node runs on Linux alone")

func lock(string) (func(), error)               { return nil, errLinux }
func start(*exec.Cmd) (func() error, error)     { return nil, errLinux }
func limitMemory(int64) error                   { return errLinux }
func stop(*os.Process) error                    { return errLinux }
func resume(*os.Process) error                  { return errLinux }
func cpuTime(int) (time.Duration, error)        { return 0, errLinux }
func peakMemory(*os.ProcessState) (bytes int64) { return 0 }
