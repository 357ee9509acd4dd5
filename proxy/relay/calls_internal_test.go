package relay

import (
	"context"
	"errors"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc/oncrpctest"
)

// mountTarget keeps what passes, and answers each CREATE_SESSION at once when it has it whole.
type mountTarget struct {
	net.Conn
	fence    *fence
	received []byte
	answered []int // how much had been received when a session was confirmed
}

func (m *mountTarget) Write(data []byte) (int, error) {
	m.received = append(m.received, data...)
	all := oncrpctest.Split(m.received)
	if len(all) == 0 || all[len(all)-1].End != len(m.received) {
		return len(data), nil
	}
	if last := oncrpctest.Read(all[len(all)-1].Message); last.Op == oncrpctest.CreateSession && !last.Reply {
		m.answered = append(m.answered, len(m.received))
		if err := m.fence.arrived(last.XID); err != nil {
			return 0, err
		}
	}
	return len(data), nil
}

// always is a gate that objects to nothing and remembers owners.
type always struct{ owners []string }

func (*always) Open() bool                    { return true }
func (*always) Wait(context.Context) error    { return nil }
func (*always) Confirm(context.Context) error { return nil }
func (a *always) Introduce(owner []byte) error {
	a.owners = append(a.owners, string(owner))
	return nil
}

func FuzzCalls(f *testing.F) {
	session := oncrpctest.NewCall(1, oncrpctest.CreateSession, make([]byte, 80))
	owner := oncrpctest.NewCall(2, oncrpctest.ExchangeID, oncrpctest.Owner("host-a"))
	write := oncrpctest.NewCall(3, oncrpctest.Sequence, make([]byte, 500))
	null := oncrpctest.Call{XID: 4, RPC: 2, Program: 100003, Version: 4}
	for _, size := range []int{math.MaxInt, 50, 3, 1} {
		var stream []byte
		for _, call := range []oncrpctest.Call{null, owner, session, write, session, session, write} {
			stream = append(stream, oncrpctest.Fragments(call.Message(), size)...)
		}
		f.Add(stream, uint16(size&0xffff))
		f.Add(stream, uint16(7))
		f.Add(append(stream, "and something else"...), uint16(300))
	}
	f.Fuzz(func(t *testing.T, stream []byte, piece uint16) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		gate := &always{}
		c := &calls{fence: &fence{gate: gate, ctx: ctx}}
		server := &mountTarget{fence: c.fence}
		c.to = server
		err := error(nil)
		for sent := slices.Collect(slices.Chunk(stream, int(piece)+1)); len(sent) > 0 && err == nil; sent = sent[1:] {
			_, err = c.Write(slices.Clone(sent[0])) // of which it may keep nothing
		}
		switch received := server.received; {
		case errors.Is(err, context.DeadlineExceeded):
			t.Fatal("it waits for the reply to something else")
		case !slices.Equal(received, stream[:len(received)]):
			t.Fatal("what is received is not what was sent")
		case err == nil && len(received)+len(c.head) != len(stream):
			t.Fatalf("of %d bytes %d passed, and %d were kept", len(stream), len(received), len(c.head))
		}
		check(t, stream, server, gate.owners, err)
	})
}

// check compares with the messages read in the plain way.
func check(t *testing.T, stream []byte, server *mountTarget, owners []string, err error) {
	t.Helper()
	known := true
	for _, whole := range oncrpctest.Split(stream) {
		meaning := oncrpctest.Read(whole.Message)
		known = known && meaning.Known
		passed := whole.End <= len(server.received)
		switch {
		case passed && !known:
			t.Fatalf("%x passed", whole.Message)
		case passed && meaning.Op == oncrpctest.CreateSession && !slices.Contains(server.answered, whole.End):
			t.Fatal("a CREATE_SESSION passed unseen")
		case passed && meaning.Op == oncrpctest.ExchangeID:
			if len(owners) == 0 || owners[0] != meaning.Owner {
				t.Fatalf("%q was not introduced, but %q", meaning.Owner, owners)
			}
			owners = owners[1:]
		case !passed && known && err == nil:
			t.Fatalf("%x did not pass", whole.Message)
		}
	}
}
