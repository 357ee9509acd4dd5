package relay_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is far beyond what anything on loopback takes.
const patience = 30 * time.Second

// group is a relay.Group whose moves a test makes.
type group struct {
	mu        sync.Mutex // guards the following fields
	current   proxy.Target
	closed    chan struct{} // not nil: no mount target answers until it is closed
	hear      func(proxy.Move)
	asked     int // calls of Connect
	connected int
	doubted   []error
	failed    []error
	answered  int
}

var _ relay.Group = (*group)(nil)

func (g *group) Connect(ctx context.Context) (*net.TCPConn, proxy.Target, error) {
	g.mu.Lock()
	g.asked++
	g.mu.Unlock()
	for {
		g.mu.Lock()
		target, closed := g.current, g.closed
		g.mu.Unlock()
		if closed != nil {
			select {
			case <-closed:
				continue
			case <-ctx.Done():
				return nil, target, ctx.Err()
			}
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", target.Addr.String())
		if err != nil {
			return nil, target, err
		}
		g.mu.Lock()
		g.connected++
		g.mu.Unlock()
		return conn.(*net.TCPConn), target, nil
	}
}

func (g *group) Current() proxy.Target {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.current
}

func (g *group) Doubt(_ proxy.Target, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.doubted = append(g.doubted, why)
}

func (g *group) Failed(_ proxy.Target, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed = append(g.failed, err)
}

func (g *group) Answered(proxy.Target) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answered++
}

func (g *group) OnMove(f func(proxy.Move)) (forget func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hear = f
	return func() {}
}

func (g *group) move(to proxy.Target, cause proxy.Cause) {
	g.mu.Lock()
	from := g.current
	g.current = to
	hear := g.hear
	g.mu.Unlock()
	hear(proxy.Move{At: time.Now(), From: from, To: to, Cause: cause})
}

// hold makes all mount targets silent; the result makes them answer again.
func (g *group) hold() (release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	closed := make(chan struct{})
	g.closed = closed
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.closed = nil
		close(closed)
	})
}

func (g *group) read(f func(g *group)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g)
}

// server is a mount target that does with each connection what a test says.
type server struct {
	proxy.Target
	conns chan *net.TCPConn // as they come, if handle is nil
}

func serve(t testing.TB, zone string, handle func(*net.TCPConn)) *server {
	t.Helper()
	listener := listen(t)
	s := &server{conns: make(chan *net.TCPConn, 10000)}
	s.Target = proxy.Target{Zone: zone, Addr: listener.Addr().(*net.TCPAddr).AddrPort()}
	var running sync.WaitGroup
	var mu sync.Mutex
	var all []*net.TCPConn
	running.Go(func() {
		for {
			conn, err := listener.AcceptTCP()
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil {
				continue
			}
			mu.Lock()
			all = append(all, conn)
			mu.Unlock()
			if handle == nil {
				s.conns <- conn
				continue
			}
			running.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, conn := range all {
			_ = conn.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return s
}

// next is the connection that the relay makes next.
func (s *server) next(t testing.TB) *net.TCPConn {
	t.Helper()
	select {
	case conn := <-s.conns:
		_ = conn.SetDeadline(time.Now().Add(patience))
		return conn
	case <-time.After(patience):
		t.Fatalf("nobody connects to %s", s.Target)
		return nil
	}
}

func echo(conn *net.TCPConn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
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

// world is a relay that serves.
type world struct {
	*relay.Relay
	group *group
	addr  string
	log   *lines
}

// start makes a relay in front of a mount target; change may set its fields.
func start(t testing.TB, target *server, change func(*relay.Relay)) *world {
	t.Helper()
	g := &group{current: target.Target}
	log := &lines{}
	logger := logrus.New()
	logger.SetOutput(log)
	w := &world{Relay: &relay.Relay{Group: g, Log: logger}, group: g, log: log}
	if change != nil {
		change(w.Relay)
	}
	listener := listen(t)
	w.addr = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Serve(ctx, listener) }()
	eventually(t, "the relay hears of moves", func() (hears bool) {
		g.read(func(g *group) { hears = g.hear != nil })
		return hears
	})
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		now, stop := context.WithCancel(context.Background())
		stop()
		_ = w.Shutdown(now)
		if left := w.Stats(); left.Conns != 0 || left.Ready != 0 {
			t.Errorf("after Shutdown: %+v", left)
		}
	})
	return w
}

func (w *world) dial(t testing.TB) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", w.addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
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

// eventually waits for what another goroutine brings about.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

func send(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatalf("send: %v", err)
	}
}

func expect(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("received %q, %v; want %q", got, err, text)
	}
}

func expectEnd(t testing.TB, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("read %d bytes, %v; want the end", n, err)
	}
}

func expectReset(t testing.TB, conn net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the connection ended by %v; want a reset", err)
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// sockets counts the open ones.
func sockets(t testing.TB) (count int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, "socket:") {
			count++
		}
	}
	return count
}
