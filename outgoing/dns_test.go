package outgoing_test

import (
	"encoding/binary"
	"io"
	"net"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// answer is a connection to a name server, which says the same addresses of every name.
func answer(t *testing.T, addresses ...[4]byte) net.Conn {
	ours, theirs := net.Pipe()
	go func() {
		defer ours.Close()
		for {
			var size [2]byte
			if _, err := io.ReadFull(ours, size[:]); err != nil {
				return
			}
			text := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(ours, text); err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(text); err != nil {
				t.Error(err)
				return
			}
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				for _, a := range addresses {
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 0}, Body: &dnsmessage.AResource{A: a}})
				}
			}
			text, err := m.Pack()
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := ours.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...)); err != nil {
				return
			}
		}
	}()
	return theirs
}
