package batch

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// size is how much is read or gathered at once, beyond which more gains nothing.
const size = 128 << 10

//nolint:gochecknoglobals // a cache of what all connections need alike
var buffers = sync.Pool{New: func() any { return new([size]byte) }}

// Conn is a connection that is read and written in large pieces.
type Conn struct {
	net.Conn
	raw syscall.RawConn

	// The reader's own.
	in    *[size]byte // nil: nothing is in store
	store []byte      // the part of it that is still to be read
	eager bool

	mu     sync.Mutex // guards the following fields, and the order of what is written
	corked bool
	out    *[size]byte // nil: nothing is gathered
	length int         // of what is in it
}

// New returns a Conn over a connection, which it takes.
func New(conn *net.TCPConn) (*Conn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &Conn{Conn: conn, raw: raw}, nil
}

// Eager has Read give what is in store and never wait: where it would, it returns
// os.ErrDeadlineExceeded, after which a TLS connection can be read on.
func (c *Conn) Eager(on bool) { c.eager = on }

// Read reads from what is in store, and when that is empty all that the kernel has.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.store) == 0 {
		if c.eager {
			return 0, os.ErrDeadlineExceeded
		}
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.store)
	if c.store = c.store[n:]; len(c.store) == 0 {
		c.release()
	}
	return n, nil
}

func (c *Conn) release() {
	buffers.Put(c.in)
	c.in, c.store = nil, nil
}

// fill waits without a buffer.
func (c *Conn) fill() error {
	var n int
	var failed error
	err := c.raw.Read(func(fd uintptr) bool {
		c.in = buffers.Get().(*[size]byte)
		for {
			n, failed = syscall.Read(int(fd), c.in[:])
			if !errors.Is(failed, syscall.EINTR) {
				break
			}
		}
		if errors.Is(failed, syscall.EAGAIN) {
			c.release()
			return false
		}
		return true
	})
	switch {
	case err != nil:
		return err // a deadline or the end: there is no buffer
	case failed != nil:
		c.release()
		return os.NewSyscallError("read", failed)
	case n <= 0:
		c.release()
		return io.EOF
	}
	c.store = c.in[:n]
	return nil
}

// Cork gathers what is written until Flush, or until there is much of it.
func (c *Conn) Cork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = true
}

// Flush writes what was gathered and ends Cork.
func (c *Conn) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	return c.flush()
}

// flush is called with mu held.
func (c *Conn) flush() error {
	if c.out == nil {
		return nil
	}
	_, err := c.Conn.Write(c.out[:c.length])
	buffers.Put(c.out)
	c.out, c.length = nil, 0
	return err
}

// Write writes, or gathers while Cork holds; then an error may be an earlier write's.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.corked {
		return c.Conn.Write(p)
	}
	if c.length+len(p) > size {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > size {
		return c.Conn.Write(p)
	}
	if c.out == nil {
		c.out = buffers.Get().(*[size]byte)
	}
	c.length += copy(c.out[c.length:], p)
	return len(p), nil
}
