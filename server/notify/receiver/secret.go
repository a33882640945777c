package receiver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/assay-dev/assay/server/notify"
)

const maxSecret = 64 << 10 // bytes

// Secret names where a secret is: a file or a variable of the environment. It
// never holds the secret, so that a configuration may be printed.
type Secret struct {
	File string `json:"file,omitempty"`
	Env  string `json:"env,omitempty"`
}

// IsSet tells whether it names anything.
func (s Secret) IsSet() bool { return s != Secret{} }

// read gives the secret without the line ends that follow it, anew each time, so
// that a mounted secret may change. An error is temporary, and has nothing of it.
func (s Secret) read() (string, error) {
	text, err := s.text()
	if err == nil {
		text = strings.TrimRight(text, "\r\n")
		switch {
		case text == "":
			err = fmt.Errorf("the secret in %s is empty", s)
		case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
			err = fmt.Errorf("the secret in %s has control characters", s)
		}
	}
	if err != nil {
		return "", &notify.Temporary{Err: err}
	}
	return text, nil
}

func (s Secret) text() (string, error) {
	if s.Env != "" {
		return os.Getenv(s.Env), nil
	}
	f, err := os.Open(s.File)
	if err != nil {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	if len(text) > maxSecret || bytes.IndexByte(text, 0) >= 0 {
		return "", fmt.Errorf("%s holds no secret: it is binary or too large", s)
	}
	return string(text), nil
}

// String is the place, not the secret.
func (s Secret) String() string {
	if s.Env != "" {
		return "the variable " + s.Env
	}
	return "the file " + s.File
}
