package relay

import (
	"errors"
	"io"
	"net"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc"
)

// send passes what the client sends, to its end.
func (p *pair) send(upstream *upstream) error {
	if p.fence == nil {
		return p.up.run(upstream.conn, p.wire)
	}
	calls, err := newCalls(p.fence, upstream.conn)
	if err != nil {
		return err
	}
	// Never spliced: the gate is asked before each write.
	if err := p.up.repeat(p.client, func() error { return p.up.sealed(calls, p.client) }); err != nil {
		return err
	}
	return calls.finished()
}

// receive passes what the mount target sends, to its end.
func (p *pair) receive(upstream *upstream) error {
	if p.fence == nil {
		return p.down.run(p.wire, upstream.conn)
	}
	a := &answers{fence: p.fence, to: p.client}
	err := p.down.repeat(upstream.conn, func() error {
		if from, plain := upstream.conn.(*net.TCPConn); plain {
			return p.down.follow(a, from)
		}
		return p.down.opened(a, upstream.conn)
	})
	if missing := p.fence.finish(); missing && err == nil {
		return errEnded
	}
	return err
}

// answers is a writer to the client for what the mount target sends. It stops at the reply to
// CREATE_SESSION until the gate has confirmed: of a session that it does not know, a client
// can make no use on other connections either.
type answers struct {
	*fence
	to      *net.TCPConn
	replies oncrpc.Replies
}

func (a *answers) Write(data []byte) (int, error) {
	passed, seen := 0, 0
	for seen < len(data) {
		n, xid, found := a.replies.Next(data[seen:])
		seen += n
		if !found || !a.awaits(xid) {
			continue
		}
		// What came before it is not kept waiting, nor need the xid be.
		if _, err := a.to.Write(data[passed:seen]); err != nil {
			return passed, err
		}
		passed = seen
		if err := a.arrived(xid); err != nil {
			return passed, err
		}
	}
	n, err := a.to.Write(data[passed:])
	return passed + n, err
}

func (f *fence) awaits(xid uint32) bool {
	q := f.asked.Load()
	return q != nil && q.xid == xid
}

// follow is splice for answers. Only the rest of a long fragment is spliced, in which no reply
// begins.
func (d *direction) follow(to *answers, from *net.TCPConn) error {
	source, err := newSource(from)
	if err != nil {
		return err
	}
	for {
		if _, err := d.passLittle(to, source); err != nil {
			return noEOF(err)
		}
		body := to.replies.Body()
		if body < littleRead {
			continue
		}
		rest := io.LimitedReader{R: from, N: body}
		_, err := io.Copy(to.to, &rest)
		to.replies.Skip(body - rest.N)
		if err != nil || rest.N > 0 {
			return err // nil at the end
		}
	}
}

// keepsBack reports whether a reply or its confirmation is waited for.
func (p *pair) keepsBack() bool {
	return p.fence != nil && p.fence.asked.Load() != nil
}

// isBarred reports whether an error is the gate's.
func isBarred(err error) bool {
	var b barred
	return errors.As(err, &b)
}
