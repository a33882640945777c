package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/assay-dev/assay/store"
)

// quotaFlag is a quota as digests=N,names=N,bytes=SIZE; what is not named stays, and 0 or off is no bound.
type quotaFlag store.Quota

func (q *quotaFlag) Type() string { return "quota" }

func (q *quotaFlag) String() string {
	if *q == (quotaFlag{}) {
		return "off"
	}
	bytes := size(q.Bytes)
	return fmt.Sprintf("digests=%d,names=%d,bytes=%s", q.Digests, q.Names, bytes.String())
}

func (q *quotaFlag) Set(text string) error {
	if text == "off" {
		*q = quotaFlag{}
		return nil
	}
	next := *q
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		to := map[string]*int64{"digests": &next.Digests, "names": &next.Names, "bytes": &next.Bytes}[key]
		if to == nil {
			return fmt.Errorf("%.40q: want digests=N, names=N and bytes=SIZE with commas, or off", part)
		}
		if value == "off" {
			value = "0"
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil && key == "bytes" {
			var s size
			err = s.Set(value)
			n = int64(s)
		}
		if err != nil || n < 0 {
			return fmt.Errorf("%.40q: want a number such as 1000, for bytes also 16Gi, or off", part)
		}
		*to = n
	}
	*q = next
	return nil
}
