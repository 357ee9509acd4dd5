package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/batch"
)

const (
	// smallRead is what a side that cannot be spliced waits with: enough for most
	// calls, little enough for a thousand that are idle.
	smallRead = 2 << 10
	largeRead = 256 << 10
	// littleRead is what goes through memory between plain sides, spliced what goes by
	// splice(2) before that is tried again.
	littleRead = 16 << 10
	spliced    = 1 << 20
)

//nolint:gochecknoglobals // caches of what all relays need alike
var (
	buffers       = sync.Pool{New: func() any { return new([largeRead]byte) }}
	littleBuffers = sync.Pool{New: func() any { return new([littleRead]byte) }}
)

// What one direction of a pair is doing.
const (
	waiting int32 = iota // for bytes, with neither pipe nor buffer
	flowing
	finished
)

// direction passes bytes one way.
type direction struct {
	state atomic.Int32
}

// run copies until the source's end, which is no error. Types are kept to the
// end: splice works between *net.TCPConn and nothing else.
func (d *direction) run(to, from net.Conn) error {
	target, plainTo := to.(*net.TCPConn)
	source, plainFrom := from.(*net.TCPConn)
	return d.repeat(from, func() error {
		switch {
		case plainTo && plainFrom:
			return d.splice(target, source)
		case plainFrom:
			return d.sealed(to, source)
		default:
			return d.opened(to, from)
		}
	})
}

// repeat has copy go on where the watch interrupted it.
func (d *direction) repeat(from net.Conn, copy func() error) error {
	defer d.state.Store(finished)
	for {
		err := copy()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		// The watch found that nothing flows: let go of the pipe or buffer.
		d.state.Store(waiting)
		_ = from.SetReadDeadline(time.Time{})
	}
}

// splice passes what is little through memory, which takes two system calls instead of four,
// and splices when there is much. io.Copy alone would take a pipe (two descriptors, and its
// part of what pipes one user may have) before bytes come.
func (d *direction) splice(to, from *net.TCPConn) error {
	source, err := newSource(from)
	if err != nil {
		return err
	}
	for {
		n, err := d.passLittle(to, source)
		if err != nil {
			return noEOF(err)
		}
		if n < littleRead {
			continue
		}
		much := io.LimitedReader{R: from, N: spliced}
		if _, err := io.Copy(to, &much); err != nil || much.N > 0 {
			return err // nil at the end
		}
	}
}

func (d *direction) passLittle(to io.Writer, from *source) (int, error) {
	buffer, n, err := from.read()
	if buffer == nil {
		return 0, err
	}
	defer littleBuffers.Put(buffer)
	d.state.Store(flowing)
	_, err = to.Write(buffer[:n])
	return n, err
}

// sealed copies from a plain side to one that is not.
func (d *direction) sealed(to io.Writer, from *net.TCPConn) error {
	for {
		if err := readable(from); err != nil {
			return err
		}
		d.state.Store(flowing)
		buffer := buffers.Get().(*[largeRead]byte)
		_, err := pass(to, from, buffer[:])
		buffers.Put(buffer)
		if err != nil {
			return noEOF(err)
		}
	}
}

// opened copies from a side that may have bytes of its own in store, so that
// only reading from it can tell: into little memory at first.
func (d *direction) opened(to io.Writer, from io.Reader) error {
	small := make([]byte, smallRead)
	for {
		n, err := pass(to, from, small)
		d.state.Store(flowing)
		if err != nil {
			return noEOF(err)
		}
		if n == len(small) {
			break
		}
	}
	large := buffers.Get().(*[largeRead]byte)
	defer buffers.Put(large)
	for {
		if _, err := pass(to, from, large[:]); err != nil {
			return noEOF(err)
		}
	}
}

// pass reads what there is and writes it, in as few pieces as it may.
func pass(to io.Writer, from io.Reader, buffer []byte) (int, error) {
	n, err := from.Read(buffer)
	if under := batched(from); under != nil && err == nil {
		var more int
		more, err = readStored(under, from, buffer[n:])
		n += more
	}
	if n > 0 {
		if err := writeAll(to, buffer[:n]); err != nil {
			return n, err
		}
	}
	return n, err
}

// readStored reads on as long as nothing has to be waited for.
func readStored(under *batch.Conn, from io.Reader, buffer []byte) (n int, err error) {
	under.Eager(true)
	defer under.Eager(false)
	for n < len(buffer) && err == nil {
		var more int
		more, err = from.Read(buffer[n:])
		n += more
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n, err
}

func writeAll(to io.Writer, data []byte) error {
	under := batched(to)
	if under == nil {
		_, err := to.Write(data)
		return err
	}
	under.Cork()
	_, err := to.Write(data)
	return errors.Join(err, under.Flush())
}

// batched is what is under a secure connection, nil if that is nothing of ours.
func batched(conn any) *batch.Conn {
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		under, _ := secure.NetConn().(*batch.Conn)
		return under
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// readable waits until there are bytes, an end or an error to read.
func readable(conn *net.TCPConn) error {
	_, err := peek(conn)
	return err
}

// ended waits as readable does, and reports whether it is the end or an error, with no
// byte before it.
func ended(conn *net.TCPConn) (bool, error) {
	n, err := peek(conn)
	return n <= 0, err
}

// peek returns how many bytes it saw, one at most. What else it finds is left to who reads.
func peek(conn *net.TCPConn) (n int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var one [1]byte
	err = raw.Read(func(fd uintptr) bool {
		for {
			var failed error
			n, _, failed = syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			if !errors.Is(failed, syscall.EINTR) {
				return !errors.Is(failed, syscall.EAGAIN)
			}
		}
	})
	return n, err
}
