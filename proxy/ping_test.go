package proxy_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is far beyond what a call on loopback takes.
const patience = 20 * time.Second

// serve listens on loopback and hands each connection to serve, which need not
// close it. It waits for all of them at the end of the test.
func serve(t *testing.T, serve func(t *testing.T, conn *net.TCPConn)) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				serve(t, conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
	})
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// call is a NULL call as RFC 5531 and RFC 8881 have it, the xid left out.
const call = "\x00\x00\x00\x00" + "\x00\x00\x00\x02" + "\x00\x01\x86\xa3" + "\x00\x00\x00\x04" + "\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00"

// readCall reads the client's call and returns its xid.
func readCall(t *testing.T, conn io.Reader) (xid uint32) {
	t.Helper()
	message := make([]byte, 4+4+len(call))
	if _, err := io.ReadFull(conn, message); err != nil {
		t.Errorf("read the call: %v", err)
		return 0
	}
	if mark := binary.BigEndian.Uint32(message); mark != 1<<31|uint32(4+len(call)) {
		t.Errorf("record mark %#x", mark)
	}
	if string(message[8:]) != call {
		t.Errorf("the call is % x, want % x", message[8:], call)
	}
	return binary.BigEndian.Uint32(message[4:])
}

// record makes a message of one fragment.
func record(words ...uint32) []byte {
	message := binary.BigEndian.AppendUint32(nil, 1<<31|uint32(4*len(words)))
	for _, word := range words {
		message = binary.BigEndian.AppendUint32(message, word)
	}
	return message
}

// untilClosed holds a connection until the client closes it, and fails if it
// does not.
func untilClosed(t *testing.T, conn net.Conn) {
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client did not close the connection: %v", err)
	}
}

func write(t *testing.T, conn net.Conn, data []byte) {
	if _, err := conn.Write(data); err != nil {
		t.Errorf("answer: %v", err)
	}
}

func TestPingOfAServerThat(t *testing.T) {
	for _, row := range []struct {
		name  string
		serve func(t *testing.T, conn *net.TCPConn)
		is    error  // nil: Ping succeeds
		says  string // part of the error
	}{
		{"answers", func(t *testing.T, conn *net.TCPConn) {
			write(t, conn, record(readCall(t, conn), 1, 0, 0, 0, 0))
			untilClosed(t, conn)
		}, nil, ""},
		{"answers and closes", func(t *testing.T, conn *net.TCPConn) {
			write(t, conn, record(readCall(t, conn), 1, 0, 0, 0, 0))
		}, nil, ""},
		{"slices its answer into single bytes", func(t *testing.T, conn *net.TCPConn) {
			_ = conn.SetNoDelay(true)
			for _, b := range record(readCall(t, conn), 1, 0, 0, 0, 0) {
				write(t, conn, []byte{b})
				time.Sleep(time.Millisecond)
			}
			untilClosed(t, conn)
		}, nil, ""},
		{"sends a verifier with its answer", func(t *testing.T, conn *net.TCPConn) {
			write(t, conn, record(readCall(t, conn), 1, 0, 2, 4, 0xdeadbeef, 0))
			untilClosed(t, conn)
		}, nil, ""},

		{"closes at once", func(t *testing.T, conn *net.TCPConn) {
			readCall(t, conn)
		}, proxy.ErrNotNFS, "it closed the connection"},
		{"closes in the middle of its answer", func(t *testing.T, conn *net.TCPConn) {
			write(t, conn, record(readCall(t, conn), 1, 0, 0, 0, 0)[:20])
		}, proxy.ErrNotNFS, "it closed the connection"},
		{"closes in the middle of the record mark", func(t *testing.T, conn *net.TCPConn) {
			readCall(t, conn)
			write(t, conn, []byte{0x80, 0})
		}, proxy.ErrNotNFS, "it closed the connection"},
		{"resets the connection", func(t *testing.T, conn *net.TCPConn) {
			readCall(t, conn)
			_ = conn.SetLinger(0)
		}, syscall.ECONNRESET, ""},

		{"speaks HTTP", func(t *testing.T, conn *net.TCPConn) {
			readCall(t, conn)
			write(t, conn, []byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))
			untilClosed(t, conn)
		}, proxy.ErrNotNFS, "no RPC reply"},
		{"speaks first, a few letters only", func(t *testing.T, conn *net.TCPConn) {
			write(t, conn, []byte("220 hi\r\n"))
			untilClosed(t, conn)
		}, proxy.ErrNotNFS, "no RPC reply"},
		{"echoes", func(t *testing.T, conn *net.TCPConn) {
			_, _ = io.Copy(conn, conn)
		}, proxy.ErrNotNFS, "no RPC reply"},
		{"announces an endless answer", func(t *testing.T, conn *net.TCPConn) {
			readCall(t, conn)
			write(t, conn, []byte{0xff, 0xff, 0xff, 0xff})
			untilClosed(t, conn)
		}, proxy.ErrNotNFS, "no RPC reply"},
		{"sends an empty record", func(t *testing.T, conn *net.TCPConn) {
			readCall(t, conn)
			write(t, conn, record())
			untilClosed(t, conn)
		}, proxy.ErrNotNFS, "no RPC reply"},
		{"answers another call", func(t *testing.T, conn *net.TCPConn) {
			write(t, conn, record(readCall(t, conn)+1, 1, 0, 0, 0, 0))
			untilClosed(t, conn)
		}, proxy.ErrNotNFS, "no RPC reply"},
		{"answers with a call", func(t *testing.T, conn *net.TCPConn) {
			write(t, conn, record(readCall(t, conn), 0, 0, 0, 0, 0))
			untilClosed(t, conn)
		}, proxy.ErrNotNFS, "no RPC reply"},

		{"does not serve NFS", func(t *testing.T, conn *net.TCPConn) { // PROG_UNAVAIL
			write(t, conn, record(readCall(t, conn), 1, 0, 0, 0, 1))
			untilClosed(t, conn)
		}, proxy.ErrNotNFS, "refused the call"},
		{"serves NFSv3 only", func(t *testing.T, conn *net.TCPConn) { // PROG_MISMATCH
			write(t, conn, record(readCall(t, conn), 1, 0, 0, 0, 2, 2, 3))
			untilClosed(t, conn)
		}, proxy.ErrNotNFS, "refused the call"},
		{"refuses the RPC version", func(t *testing.T, conn *net.TCPConn) { // RPC_MISMATCH
			write(t, conn, record(readCall(t, conn), 1, 1, 0, 2, 2))
			untilClosed(t, conn)
		}, proxy.ErrNotNFS, "refused the call"},
		{"refuses the caller", func(t *testing.T, conn *net.TCPConn) { // AUTH_ERROR, shorter than a success
			write(t, conn, record(readCall(t, conn), 1, 1, 1, 5))
			untilClosed(t, conn)
		}, proxy.ErrNotNFS, "refused the call"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			addr := serve(t, row.serve)
			start := time.Now()
			took, err := proxy.Ping(ctx, addr)
			if row.is == nil && row.says == "" {
				if err != nil || took <= 0 || took > time.Since(start) {
					t.Fatalf("Ping = %v, %v", took, err)
				}
				return
			}
			if !errors.Is(err, row.is) || !strings.Contains(err.Error(), row.says) {
				t.Fatalf("Ping = %v, %v; want %v that says %q", took, err, row.is, row.says)
			}
			if took != 0 || !strings.Contains(err.Error(), addr.String()) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Ping = %v, %q; want 0 and one line that names %s", took, err, addr)
			}
		})
	}
}

// A server that closes before it has read the call: the system may say so in
// several ways, but it says so at once.
func TestPingOfAServerThatClosesUnread(t *testing.T) {
	addr := serve(t, func(*testing.T, *net.TCPConn) {})
	_, err := proxy.Ping(t.Context(), addr)
	if !errors.Is(err, proxy.ErrNotNFS) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("Ping: %v", err)
	}
}

func TestPingWhereNobodyListens(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.9:0") // no other test listens there when this one's is closed
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().(*net.TCPAddr).AddrPort()
	listener.Close()
	_, err = proxy.Ping(t.Context(), addr)
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), addr.String()) {
		t.Fatalf("Ping: %v, want ECONNREFUSED and the address", err)
	}
}

func TestPingOverIPv6(t *testing.T) {
	listener, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		// Nothing of the package depends on the family; the address's text does.
		addr := netip.MustParseAddrPort("[::1]:2049")
		if _, err := proxy.Ping(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "[::1]:2049") {
			t.Fatalf("Ping without IPv6: %v", err)
		}
		return
	}
	defer listener.Close()
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		write(t, conn, record(readCall(t, conn), 1, 0, 0, 0, 0))
	})
	if _, err := proxy.Ping(t.Context(), listener.Addr().(*net.TCPAddr).AddrPort()); err != nil {
		t.Fatal(err)
	}
}

func TestPingGivesUp(t *testing.T) {
	silent := func(t *testing.T, conn *net.TCPConn) { untilClosed(t, conn) }
	dripping := func(_ *testing.T, conn *net.TCPConn) {
		for _, err := conn.Write([]byte{0x80}); err == nil; _, err = conn.Write([]byte{0}) {
			time.Sleep(50 * time.Millisecond)
		}
	}
	for _, row := range []struct {
		name    string
		serve   func(t *testing.T, conn *net.TCPConn)
		context func(parent context.Context) (context.Context, context.CancelFunc)
		want    error
	}{
		{"at its deadline, when the server accepts and says nothing", silent, func(parent context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(parent, 50*time.Millisecond)
		}, context.DeadlineExceeded},
		{"when its caller does, and the server says nothing", silent, func(parent context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(parent)
			time.AfterFunc(50*time.Millisecond, cancel)
			return ctx, cancel
		}, context.Canceled},
		{"at its deadline, when the answer stops half-way", func(t *testing.T, conn *net.TCPConn) {
			write(t, conn, record(readCall(t, conn), 1, 0, 0, 0, 0)[:27])
			untilClosed(t, conn)
		}, func(parent context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(parent, time.Second) // the server has to read the call by then
		}, context.DeadlineExceeded},
		{"at its deadline, when its caller had given up before", silent, func(parent context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(parent)
			cancel()
			return ctx, cancel
		}, context.Canceled},
		{"on a server that never comes to the point", dripping, func(parent context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(parent, 120*time.Millisecond)
		}, nil}, // either it sees that this is no NFS, or the time is over
	} {
		t.Run(row.name, func(t *testing.T) {
			addr := serve(t, row.serve)
			ctx, cancel := row.context(t.Context())
			defer cancel()
			start := time.Now()
			_, err := proxy.Ping(ctx, addr)
			if err == nil || row.want != nil && !errors.Is(err, row.want) {
				t.Fatalf("Ping: %v, want %v", err, row.want)
			}
			if took := time.Since(start); took > patience/2 {
				t.Fatalf("it took %v", took)
			}
		})
	}
}

// A server with a full queue swallows packets: the connection is never there.
func TestPingOfAServerThatSwallowsPackets(t *testing.T) {
	addr := full(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := proxy.Ping(ctx, addr)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connect to "+addr.String()) {
		t.Fatalf("Ping: %v, want the deadline's error", err)
	}
}

// full listens with the shortest queue and fills it.
func full(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*syscall.SockaddrInet4).Port))
	for range 8 {
		conn, err := net.DialTimeout("tcp", addr.String(), 2*time.Second)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatal("the queue does not fill")
	return addr
}

// Many callers at once: no state is shared.
func TestPingIsSafeForConcurrentUse(t *testing.T) {
	addr := serve(t, func(t *testing.T, conn *net.TCPConn) {
		write(t, conn, record(readCall(t, conn), 1, 0, 0, 0, 0))
	})
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			if _, err := proxy.Ping(t.Context(), addr); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
}

func FuzzCheckNull(f *testing.F) {
	for _, words := range [][]uint32{
		{7, 1, 0, 0, 0, 0},                // success
		{7, 1, 0, 2, 4, 0xdeadbeef, 0},    // success with a verifier
		{7, 1, 0, 0, 0, 2, 2, 3},          // PROG_MISMATCH
		{7, 1, 1, 0, 2, 2},                // RPC_MISMATCH
		{7, 1, 1, 1, 5},                   // AUTH_ERROR
		{7, 1, 0, 0, 0xffffffff, 0},       // a verifier beyond the message
		{7, 1, 0, 0, 0xfffffffc, 0, 0, 0}, // the same, at the edge of 32 bits
		{8, 1, 0, 0, 0, 0},                // another call's
		{7}, {},
	} {
		f.Add(record(words...)[4:])
	}
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, reply []byte) {
		const xid = 7
		err := proxy.CheckNull(reply, xid)
		if err != nil && !errors.Is(err, proxy.ErrNotNFS) {
			t.Fatalf("% x: %v", reply, err)
		}
		accepted := bytes.HasPrefix(reply, record(xid, 1, 0)[4:]) && bytes.HasSuffix(reply, []byte{0, 0, 0, 0})
		if err == nil && !accepted {
			t.Fatalf("% x was taken for success", reply)
		}
	})
}
