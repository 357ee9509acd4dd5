package relay

import (
	"bufio"
	"errors"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc"
)

// dismiss answers all that the client calls as a server does that has done with it for good, until
// the client ends. One that was reset would come again and again, and whoever waits for it with it.
func (p *pair) dismiss(why error) {
	p.dismissed.Store(true)
	p.relay.lines.warn("dismissed", "client %s gets nothing but errors from now on: %v", p.client.RemoteAddr(), why)
	calls := bufio.NewReaderSize(p.client, oncrpc.HeadLimit)
	for {
		head, err := nextHead(calls)
		if errors.Is(err, oncrpc.ErrUnknown) {
			p.bar(err)
		}
		if err != nil {
			return
		}
		answer := head.Dismissal() // what head is read from changes now
		if err := discardMessage(calls); err != nil {
			return
		}
		if _, err := p.client.Write(answer); err != nil {
			return
		}
	}
}

// nextHead reads the head of the next message and takes nothing. An error that is
// [oncrpc.ErrUnknown] is the client's, another its connection's.
func nextHead(from *bufio.Reader) (oncrpc.Head, error) {
	for {
		there, _ := from.Peek(from.Buffered())
		if head, err := oncrpc.ReadHead(there); !errors.Is(err, oncrpc.ErrShort) {
			return head, err
		}
		// It is unknown before the buffer is full.
		if _, err := from.Peek(len(there) + 1); err != nil {
			return oncrpc.Head{}, err
		}
	}
}

// discardMessage takes one message.
func discardMessage(from *bufio.Reader) error {
	var message oncrpc.Message
	for over := false; !over; {
		if _, err := from.Peek(1); err != nil {
			return err
		}
		var n int
		there, _ := from.Peek(from.Buffered())
		n, over = message.Pass(there)
		_, _ = from.Discard(n)
	}
	return nil
}
