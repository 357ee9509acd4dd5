package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// source reads little from a connection, and waits without a buffer.
type source struct {
	raw    syscall.RawConn
	buffer *[littleRead]byte // nil: there was nothing
	n      int
	err    error
}

func newSource(conn *net.TCPConn) (*source, error) {
	raw, err := conn.SyscallConn()
	return &source{raw: raw}, err
}

// read returns a buffer, which the caller gives back, and how much is in it; or no buffer and
// why.
func (s *source) read() (*[littleRead]byte, int, error) {
	s.buffer = nil
	if err := s.raw.Read(s.try); err != nil {
		return nil, 0, err
	}
	switch {
	case s.buffer == nil:
		return nil, 0, os.NewSyscallError("read", s.err)
	case s.n == 0:
		littleBuffers.Put(s.buffer)
		return nil, 0, io.EOF
	}
	return s.buffer, s.n, nil
}

// try reports whether there was anything to be read, an end or an error among it.
func (s *source) try(fd uintptr) bool {
	buffer := littleBuffers.Get().(*[littleRead]byte)
	for {
		s.n, s.err = syscall.Read(int(fd), buffer[:])
		if !errors.Is(s.err, syscall.EINTR) {
			break
		}
	}
	if s.err != nil {
		littleBuffers.Put(buffer)
		return !errors.Is(s.err, syscall.EAGAIN)
	}
	s.buffer = buffer
	return true
}
