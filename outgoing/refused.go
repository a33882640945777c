package outgoing

import (
	"errors"
	"fmt"
)

// Why a call is not made.
var (
	// ErrAddress is that of an address that not everybody can reach.
	ErrAddress = errors.New("only public addresses are dialled")
	// ErrPlainHTTP is that of a request which would cross the network in the clear.
	ErrPlainHTTP = errors.New("plain HTTP is not spoken without being told")
	// ErrRealm is that of credentials which would go to another host.
	ErrRealm = errors.New("credentials go to no other host without being told")
)

// Refused is a call that is not made. It wraps one of the errors above.
type Refused struct {
	reason error
	what   string
}

func refused(reason error, format string, args ...any) error {
	return &Refused{reason, fmt.Sprintf(format, args...)}
}

// Error says why, what, and what would allow it.
func (r *Refused) Error() string { return r.reason.Error() + ": " + r.what }

// Unwrap gives the reason.
func (r *Refused) Unwrap() error { return r.reason }
