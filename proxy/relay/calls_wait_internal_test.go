package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// lock is a gate that closes.
type lock struct {
	always
	asked  atomic.Int64
	closed atomic.Bool
}

func (l *lock) Open() bool {
	l.asked.Add(1)
	return !l.closed.Load()
}

// One write of the relay's may be many of the system's.
func TestTheGateIsAskedAgainAfterAFullBuffer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	to, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	gate := &lock{}
	c, err := newCalls(&fence{gate: gate, ctx: context.Background()}, to)
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20 // more than any buffer
	done := make(chan error, 1)
	go func() {
		done <- c.write(make([]byte, size))
		_ = to.Close()
	}()
	for before := int64(-1); before != gate.asked.Load(); time.Sleep(200 * time.Millisecond) {
		before = gate.asked.Load()
	}
	gate.closed.Store(true)
	received, err := io.Copy(io.Discard, server)
	if err != nil || received >= size {
		t.Errorf("%d of %d bytes passed, %v", received, size, err)
	}
	if err := <-done; !errors.Is(err, errClosed) {
		t.Errorf("it ended by %v", err)
	}
}
