package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// ErrIdentity reports that this side could not make what a connection needs, such as its
// certificate. It says nothing about the mount target.
var ErrIdentity = errors.New("this host cannot show who it is")

// ErrRefused reports a mount target that serves, though not whom it was shown. It says
// nothing about the mount target's health.
var ErrRefused = errors.New("refused")

// ErrUnproven reports a mount target that took the connection and ended it: perhaps it fails,
// perhaps it refuses whom it was shown without a word. A check of its own tells.
var ErrUnproven = errors.New("ended by the mount target")

// ErrNotNFS reports that something answered, but not as an NFSv4 server does.
var ErrNotNFS = errors.New("the server does not speak NFSv4")

// Words of an ONC RPC message (RFC 5531 section 9) and of NFSv4 (RFC 8881
// section 2.2 and 16.1).
const (
	rpcCall, rpcReply = 0, 1
	rpcVersion        = 2
	nfsProgram        = 100003
	nfsVersion        = 4
	procedureNull     = 0
	msgAccepted       = 0
	acceptSuccess     = 0
	lastFragment      = 1 << 31
	// maxReply is beyond any reply to NULL: six words, a verifier of at most 400
	// bytes, and two words that explain a refusal.
	maxReply = 512
)

// Ping connects to a mount target, calls NFS's NULL procedure and returns how
// long the answer took after the connection was there. The errors keep the
// system's (ECONNREFUSED, context.DeadlineExceeded …) or are [ErrNotNFS].
// The connection is closed in any case.
func Ping(ctx context.Context, addr netip.AddrPort) (time.Duration, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return 0, fmt.Errorf("connect to %s: %w", addr, timedOut(ctx, err))
	}
	defer conn.Close()
	rtt, err := Null(ctx, conn)
	if err != nil {
		return 0, fmt.Errorf("NFS call to %s: %w", addr, err)
	}
	return rtt, nil
}

// Null calls NFS's NULL procedure on a connection on which nothing else happens, and
// returns how long the answer took. It reads no byte beyond the answer. After an error
// the connection is good for nothing but to be closed, which the caller does.
func Null(ctx context.Context, conn net.Conn) (time.Duration, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	start := time.Now()
	err := callNull(conn, uint32(start.UnixNano()))
	rtt := time.Since(start)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return 0, timedOut(ctx, err)
	}
	return rtt, nil
}

// timedOut prefers the context's error: a deadline that cut a dial short shows
// up as one of several network errors.
func timedOut(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return context.DeadlineExceeded
	}
	return err
}

// callNull sends NULL and reads its reply: record mark (RFC 5531 section 11),
// then the message.
func callNull(conn io.ReadWriter, xid uint32) error {
	words := []uint32{xid, rpcCall, rpcVersion, nfsProgram, nfsVersion, procedureNull, 0, 0, 0, 0}
	message := binary.BigEndian.AppendUint32(nil, lastFragment|uint32(4*len(words)))
	for _, word := range words {
		message = binary.BigEndian.AppendUint32(message, word)
	}
	if _, err := conn.Write(message); err != nil {
		return err
	}
	mark := make([]byte, 4)
	if err := readFull(conn, mark); err != nil {
		return err
	}
	// A refusal is shorter or longer than a success, and what is no RPC at all
	// may never send as much as either.
	size := binary.BigEndian.Uint32(mark) &^ lastFragment
	if mark[0]&0x80 == 0 || size > maxReply {
		return errNoReply
	}
	reply := make([]byte, size)
	if err := readFull(conn, reply); err != nil {
		return err
	}
	return checkNull(reply, xid)
}

func readFull(conn io.Reader, data []byte) error {
	_, err := io.ReadFull(conn, data)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it closed the connection", ErrNotNFS)
	}
	return err
}

var (
	errNoReply = fmt.Errorf("%w: the answer is no RPC reply", ErrNotNFS)
	errRefused = fmt.Errorf("%w: it refused the call", ErrNotNFS)
)

// checkNull reads a reply: xid, type, status, and if that is "accepted" the
// verifier's flavour and length, the verifier, and the accept status.
func checkNull(reply []byte, xid uint32) error {
	if len(reply)%4 != 0 || len(reply) < 4*4 {
		return errNoReply
	}
	word := func(i int) uint32 { return binary.BigEndian.Uint32(reply[4*i:]) }
	switch {
	case word(0) != xid, word(1) != rpcReply:
		return errNoReply
	case word(2) != msgAccepted:
		return errRefused
	case len(reply) < 4*6, word(4) > uint32(len(reply)-4*6):
		return errNoReply
	}
	switch status := reply[4*5+(word(4)+3)/4*4:]; {
	case binary.BigEndian.Uint32(status) != acceptSuccess:
		return errRefused
	case len(status) > 4: // NULL returns nothing
		return errNoReply
	}
	return nil
}
