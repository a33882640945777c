//go:build !linux

package child

import (
	"errors"
	"os"
	"os/exec"
	"time"
)

var errLinux = errors.New("scans within bounds run on Linux alone")

func start(*exec.Cmd) (func() error, error)     { return nil, errLinux }
func LimitMemory(int64) error                   { return errLinux }
func stop(*os.Process) error                    { return errLinux }
func resume(*os.Process) error                  { return errLinux }
func cpuTime(int) (time.Duration, error)        { return 0, errLinux }
func peakMemory(*os.ProcessState) (bytes int64) { return 0 }
