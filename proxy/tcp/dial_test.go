package tcp_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/tcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t *testing.T) (*net.TCPListener, netip.AddrPort) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener, listener.Addr().(*net.TCPAddr).AddrPort()
}

// connect returns both ends of a connection.
func connect(t *testing.T) (dialled, accepted *net.TCPConn) {
	t.Helper()
	listener, addr := listen(t)
	dialled, err := tcp.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialled.Close() })
	accepted, err = listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Close() })
	return dialled, accepted
}

func TestADeadConnectionEndsWhicheverSideMadeIt(t *testing.T) {
	dialled, accepted := connect(t)
	if err := tcp.Accepted(accepted); err != nil {
		t.Fatal(err)
	}
	for _, side := range []struct {
		name string
		conn *net.TCPConn
	}{{"dialled", dialled}, {"accepted", accepted}} {
		raw, err := side.conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range []struct {
			name          string
			level, option int
			want          int
		}{
			{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 5},
			{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 5},
			{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
			{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 10_000},
		} {
			var got int
			var failed error
			if err := raw.Control(func(fd uintptr) { got, failed = unix.GetsockoptInt(int(fd), row.level, row.option) }); err != nil || failed != nil {
				t.Fatalf("%s, %s: %v, %v", side.name, row.name, err, failed)
			}
			if got != row.want {
				t.Errorf("%s, %s = %d, want %d", side.name, row.name, got, row.want)
			}
		}
	}
}

func TestAcceptedSaysThatAConnectionIsClosed(t *testing.T) {
	_, accepted := connect(t)
	_ = accepted.Close()
	if err := tcp.Accepted(accepted); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the error is %v", err)
	}
}

func TestDialKeepsTheSystemsError(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.11:0") // no other test listens there when this one's is closed
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().(*net.TCPAddr).AddrPort()
	listener.Close()
	if conn, err := tcp.Dial(t.Context(), addr); !errors.Is(err, syscall.ECONNREFUSED) || conn != nil {
		t.Fatalf("Dial where nobody listens: %v, %v", conn, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if conn, err := tcp.Dial(ctx, addr); err == nil || conn != nil {
		t.Fatalf("Dial after its caller gave up: %v, %v", conn, err)
	}
}
