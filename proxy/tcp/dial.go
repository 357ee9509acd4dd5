package tcp

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// UserTimeout is how long sent bytes may stay unacknowledged before the
	// kernel ends the connection. It bounds keep-alive as well.
	UserTimeout = 10 * time.Second
	// An idle connection is probed after keepAliveIdle, then each
	// keepAliveInterval, and ended after keepAliveCount unanswered probes.
	keepAliveIdle     = 5 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3
)

// Dial connects to a mount target. The caller closes the connection. Small
// messages are sent at once (TCP_NODELAY is Go's default).
func Dial(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
	dialer := net.Dialer{
		KeepAliveConfig: keepAlive(),
		Control:         control,
	}
	conn, err := dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// Accepted gives a connection that somebody else made what Dial gives its own, so that a
// client which is gone without a word is noticed as soon as a mount target is.
func Accepted(conn *net.TCPConn) error {
	if err := conn.SetKeepAliveConfig(keepAlive()); err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return control("", "", raw)
}

func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount}
}

// control sets what must hold from the first SYN on.
func control(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(UserTimeout.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return failed
}
