package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/gateway"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is far beyond what anything on loopback takes.
const patience = 30 * time.Second

// server is a mount target that counts its clients.
type server struct {
	proxy.Target
	stop  func()       // resets all connections and refuses new ones
	conns atomic.Int64 // that sent something else than NULL
}

func serve(t testing.TB, zone string) *server {
	t.Helper()
	return serveAs(t, zone, (*server).handle)
}

// serveAs does something else with connections.
func serveAs(t testing.TB, zone string, handle func(*server, net.Conn)) *server {
	t.Helper()
	s := &server{}
	listener := proxytest.Serve(t, func(conn *net.TCPConn) { handle(s, conn) })
	s.Target, s.stop = proxy.Target{Zone: zone, Addr: listener.Addr}, listener.Stop
	return s
}

func (s *server) handle(conn net.Conn) {
	first, err := proxytest.AnswerNull(conn)
	if err != nil {
		return
	}
	s.conns.Add(1)
	_, _ = conn.Write(first)
	if _, err := io.Copy(conn, conn); err == nil {
		_ = conn.(*net.TCPConn).CloseWrite()
	}
}

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

func addrOf(listener net.Listener) netip.AddrPort {
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// quick are knobs for people who wait for a test.
var quick = proxy.Knobs{Inter: 100 * time.Millisecond, FastInter: 50 * time.Millisecond, DownInter: 100 * time.Millisecond}

// world is a gateway that serves.
type world struct {
	*gateway.Gateway
	plain, peer netip.AddrPort
	log         *lines
	end         func() // ends it and waits
}

// start makes a gateway; options without an identity for listening have no listener for peers.
func start(t testing.TB, options gateway.Options) *world {
	t.Helper()
	w := &world{log: newLog(&options)}
	if options.Knobs == (proxy.Knobs{}) {
		options.Knobs = quick
	}
	if options.DrainTime == 0 {
		options.DrainTime = -1
	}
	g, err := gateway.New(options)
	if err != nil {
		t.Fatal(err)
	}
	w.Gateway = g
	plain := listen(t)
	w.plain = addrOf(plain)
	listeners := gateway.Listeners{Plain: []*net.TCPListener{plain}}
	if options.Identity != nil && !options.Peers {
		listeners.Peer = append(listeners.Peer, listen(t))
		w.peer = addrOf(listeners.Peer[0])
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := g.Serve(ctx, listeners); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	w.end = func() {
		cancel()
		serving.Wait()
	}
	t.Cleanup(w.end)
	return w
}

// newLog gives options a log that a test can read.
func newLog(options *gateway.Options) *lines {
	log := &lines{}
	options.Log = logger(log)
	return log
}

func logger(to *lines) *logrus.Logger {
	l := logrus.New()
	l.SetOutput(to)
	return l
}

// lines keeps what was logged.
type lines struct {
	mu   sync.Mutex // guards the following field
	text bytes.Buffer
}

func (l *lines) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(data)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func dial(t testing.TB, addr netip.AddrPort) *net.TCPConn { return dialFrom(t, "127.0.0.1", addr) }

func dialFrom(t testing.TB, from string, addr netip.AddrPort) *net.TCPConn {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// talk sends a text and expects it back.
func talk(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatalf("send: %v", err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("received %q, %v; want %q", got, err, text)
	}
}

// expectRefused connects and wants an end without a byte.
func expectRefused(t testing.TB, from string, addr netip.AddrPort) {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", addr.String())
	if errors.Is(err, syscall.ECONNRESET) {
		return // before Dial looked
	} else if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	n, err := io.Copy(io.Discard, conn)
	if n != 0 || errors.Is(err, os.ErrDeadlineExceeded) || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("%d bytes, %v; want an end", n, err)
	}
}

func expectReset(t testing.TB, conn net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the connection ended by %v; want a reset", err)
	}
}

// eventually waits for what another goroutine brings about.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

func (l *lines) expect(t testing.TB, text string) {
	t.Helper()
	eventually(t, "a line with "+text, func() bool { return strings.Contains(l.String(), text) })
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}
