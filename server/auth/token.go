package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"time"
)

// TokenPrefix begins every token that the server makes, so that scanners for
// leaked secrets recognise them: assay_[A-Za-z0-9_-]{49}.
const TokenPrefix = "assay_"

const (
	randomLen   = 43 // base64url of 256 bits
	checksumLen = 6  // base64url of the CRC-32 of all before it
)

// encoding is strict: a token has one spelling.
var encoding = base64.RawURLEncoding.Strict()

// TokenHash is what a store keeps of a token: its SHA-256. The token has 256
// random bits, so that the hash needs neither salt nor stretching.
type TokenHash [sha256.Size]byte

// StoredToken is what a [TokenStore] knows of a token that the server made.
type StoredToken struct {
	// ID is the store's own.
	ID int64
	// Name is who the token stands for, such as "scanner of prod-eu".
	Name  string
	Role  Role
	Scope Scope
	// Legacy is a scanner's from before nodes and webhooks had roles of their own.
	Legacy bool
	// Expires is when the token ends; the zero time is never.
	Expires time.Time
	Revoked bool
}

// TokenStore finds tokens by hash. It is asked at each request with such a
// token, so that a token ends with its revocation.
type TokenStore interface {
	// LookupToken returns found=false for a hash that is not known, and an
	// error only when it could not look.
	LookupToken(context.Context, TokenHash) (t StoredToken, found bool, err error)
}

// NewToken makes a token. It is shown once, to the user; only its [Hash] is
// kept.
func NewToken() string {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand ends the program instead
	body := TokenPrefix + encoding.EncodeToString(random[:])
	return body + checksum(body)
}

// Hash is what a store keeps of a token.
func Hash(token string) TokenHash { return sha256.Sum256([]byte(token)) }

// IsToken says whether a text has the form and the checksum of a token that
// [NewToken] makes.
func IsToken(s string) bool {
	if len(s) != len(TokenPrefix)+randomLen+checksumLen || !strings.HasPrefix(s, TokenPrefix) {
		return false
	}
	body := s[:len(s)-checksumLen]
	random, err := encoding.DecodeString(body[len(TokenPrefix):])
	return err == nil && len(random) == 32 && s[len(body):] == checksum(body)
}

func checksum(body string) string {
	return encoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(body))))
}
