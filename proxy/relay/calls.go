package relay

import (
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc"
)

// sealedPiece is what a secure side is given at once: as much as package batch gathers with what
// TLS adds to it, so that a piece is one write. It cannot be cut short: what of it waits for
// room in a full buffer goes on, until Fence, though the gate is closed meanwhile.
const sealedPiece = 112 << 10

var errCutOff = errors.New("it ended its side within a message's head")

// calls is a writer to the mount target for what a client sends. A message passes when its head
// is known and the gate has no objection; a CREATE_SESSION keeps back all that is behind it.
type calls struct {
	*fence
	to net.Conn
	// raw is not nil for a plain side, which is asked for at each system call: what a full
	// buffer keeps waiting must not pass later unasked.
	raw syscall.RawConn

	message oncrpc.Message // the one that is passing
	passing bool
	head    []byte // of the next message, as long as it is not whole
}

func newCalls(f *fence, to net.Conn) (*calls, error) {
	c := &calls{fence: f, to: to}
	plain, is := to.(*net.TCPConn)
	if !is {
		return c, nil
	}
	var err error
	c.raw, err = plain.SyscallConn()
	return c, err
}

// Write passes what may pass, and keeps the beginning of a head that is not whole.
func (c *calls) Write(data []byte) (int, error) {
	size := len(data)
	if len(c.head) > 0 {
		n, err := c.join(data)
		if err != nil {
			return 0, err
		}
		data = data[n:]
	}
	for len(data) > 0 {
		n, err := c.passOne(data)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			c.head = append(c.head, data...)
			break
		}
		data = data[n:]
	}
	return size, nil
}

// join completes a head with data, and returns how much of that has been taken. A head that
// stays short after HeadLimit bytes is an error, so all is taken or the head is whole.
func (c *calls) join(data []byte) (int, error) {
	had := len(c.head)
	joined := append(c.head, data[:min(len(data), oncrpc.HeadLimit-had)]...)
	n, err := c.passOne(joined)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		c.head = joined
		return len(joined) - had, nil
	}
	c.head = nil
	return n - had, nil
}

// passOne passes messages, in one piece, up to the end of data, to a head that is not whole or
// to the end of a CREATE_SESSION. It returns how much that was.
func (c *calls) passOne(data []byte) (int, error) {
	n, err := c.clear(data)
	if err != nil || n == 0 {
		return 0, err
	}
	if err := c.write(data[:n]); err != nil {
		return 0, err
	}
	if q := c.question(); q != nil {
		err = c.await(q)
	}
	return n, err
}

// question is that of a CREATE_SESSION that has been seen to its end.
func (c *calls) question() *question {
	if c.passing {
		return nil
	}
	return c.asked.Load()
}

// clear returns how much of data may pass now.
func (c *calls) clear(data []byte) (n int, err error) {
	for n < len(data) {
		if !c.passing {
			head, err := oncrpc.ReadHead(data[n:])
			if errors.Is(err, oncrpc.ErrShort) {
				return n, nil
			} else if err != nil {
				return n, barred{err}
			}
			if err := c.judge(head); err != nil {
				return n, err
			}
			c.passing, c.message = true, oncrpc.Message{}
		}
		taken, over := c.message.Pass(data[n:])
		n += taken
		if over {
			c.passing = false
			if c.asked.Load() != nil {
				return n, nil
			}
		}
	}
	return n, nil
}

func (c *calls) write(data []byte) error {
	if c.raw != nil {
		return c.writePlain(data)
	}
	for len(data) > 0 {
		piece := data[:min(len(data), sealedPiece)]
		if !c.gate.Open() {
			return barred{errClosed}
		}
		if err := writeAll(c.to, piece); err != nil {
			return err
		}
		data = data[len(piece):]
	}
	return nil
}

func (c *calls) writePlain(data []byte) error {
	var failed error
	err := c.raw.Write(func(fd uintptr) bool {
		for len(data) > 0 && failed == nil {
			if !c.gate.Open() {
				failed = barred{errClosed}
				break
			}
			n, err := syscall.Write(int(fd), data)
			switch {
			case err == nil:
				data = data[n:]
			case errors.Is(err, syscall.EAGAIN):
				return false
			case !errors.Is(err, syscall.EINTR):
				failed = os.NewSyscallError("write", err)
			}
		}
		return true
	})
	return errors.Join(err, failed)
}

// finished is asked at the client's end.
func (c *calls) finished() error {
	if len(c.head) > 0 {
		return barred{errCutOff}
	}
	return nil
}
