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
	// replyWords are xid, type, status, verifier's flavour and length, and
	// accept status: all that NULL answers.
	replyWords = 6
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
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	start := time.Now()
	if err := callNull(conn, uint32(start.UnixNano())); err != nil {
		return 0, fmt.Errorf("NFS call to %s: %w", addr, timedOut(ctx, err))
	}
	return time.Since(start), nil
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
	reply := make([]byte, 4+4*replyWords)
	if _, err := io.ReadFull(conn, reply); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: it closed the connection", ErrNotNFS)
		}
		return err
	}
	return checkNull(reply, xid)
}

func checkNull(reply []byte, xid uint32) error {
	word := func(i int) uint32 { return binary.BigEndian.Uint32(reply[4*i:]) }
	switch {
	case word(0) != lastFragment|4*replyWords, word(1) != xid, word(2) != rpcReply:
		return fmt.Errorf("%w: the answer is no RPC reply", ErrNotNFS)
	case word(3) != msgAccepted, word(6) != acceptSuccess:
		return fmt.Errorf("%w: it refused the call", ErrNotNFS)
	}
	return nil
}
