package relay_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc/oncrpctest"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
)

// gate is a relay.Gate that a test opens and closes.
type gate struct {
	asked     atomic.Int64 // calls of Open
	confirms  atomic.Int64 // calls of Confirm
	introduce func(owner string) error
	confirm   func(ctx context.Context) error

	mu      sync.Mutex // guards the following fields
	open    bool
	ended   error
	changed chan struct{}
	owners  []string
}

var _ relay.Gate = (*gate)(nil)

func opened() *gate { return &gate{open: true, changed: make(chan struct{})} }
func shut() *gate   { return &gate{changed: make(chan struct{})} }

func (g *gate) Open() bool {
	g.asked.Add(1)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

func (g *gate) Wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		open, ended, changed := g.open, g.ended, g.changed
		g.mu.Unlock()
		if open || ended != nil {
			return ended
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *gate) Introduce(owner []byte) error {
	g.mu.Lock()
	g.owners = append(g.owners, string(owner))
	g.mu.Unlock()
	if g.introduce != nil {
		return g.introduce(string(owner))
	}
	return nil
}

func (g *gate) Confirm(ctx context.Context) error {
	g.confirms.Add(1)
	if g.confirm != nil {
		return g.confirm(ctx)
	}
	return nil
}

func (g *gate) set(open bool, ended error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.ended = open, ended
	close(g.changed)
	g.changed = make(chan struct{})
}

// held makes Confirm wait; answer ends that.
func (g *gate) held() (answer func(error)) {
	answers := make(chan error, 1)
	g.confirm = func(ctx context.Context) error {
		select {
		case err := <-answers:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return func(err error) { answers <- err }
}

// guard makes a relay with a gate in front of a mount target.
func guard(t testing.TB, target *server, g *gate) *world {
	t.Helper()
	return start(t, target, func(r *relay.Relay) { r.Gate = g })
}

func write(xid uint32, size int) string {
	return string(oncrpctest.NewCall(xid, oncrpctest.Sequence, bytes.Repeat([]byte{byte(xid)}, size)).Record())
}

func createSession(xid uint32) string {
	return string(oncrpctest.NewCall(xid, oncrpctest.CreateSession, make([]byte, 80)).Record())
}

func exchangeID(xid uint32, owner string) string {
	return string(oncrpctest.NewCall(xid, oncrpctest.ExchangeID, oncrpctest.Owner(owner)).Record())
}

func reply(xid uint32, size int) string { return string(oncrpctest.Reply(xid, size)) }

// expectNothing looks whether something comes that must not.
func expectNothing(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || !isTimeout(err) {
		t.Fatalf("read %d bytes, %v; want nothing", n, err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
}

// fill sends until nobody takes any more, and returns how much that was.
func fill(conn *net.TCPConn) (sent int) {
	for xid := uint32(1); ; xid++ {
		_ = conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := io.WriteString(conn, write(xid, 1<<20))
		sent += n
		if err != nil {
			_ = conn.SetWriteDeadline(time.Time{})
			return sent
		}
	}
}

func TestAClientIsHeldWithoutAConnectionUntilTheGateOpens(t *testing.T) {
	a, g := serve(t, "a", nil), shut()
	w := guard(t, a, g)
	client := w.dial(t)
	send(t, client, write(1, 10))
	eventually(t, "it is held", func() bool { return w.Stats().Held == 1 })
	time.Sleep(20 * time.Millisecond)
	w.group.read(func(group *group) {
		if group.asked != 0 {
			t.Error("a connection to the mount target was sought")
		}
	})
	g.set(true, nil)
	upstream := a.next(t)
	expect(t, upstream, write(1, 10))
	send(t, upstream, reply(1, 10))
	expect(t, client, reply(1, 10))
}

func TestAHeldClientThatGoesIsNotKeptForTheGate(t *testing.T) {
	a, g := serve(t, "a", nil), shut()
	w := guard(t, a, g)
	client := w.dial(t)
	eventually(t, "it is held", func() bool { return w.Stats().Held == 1 })
	_ = client.Close()
	eventually(t, "it is gone", func() bool { return w.Stats().Conns == 0 })
}

func TestNothingPassesAfterTheGateIsClosed(t *testing.T) {
	for name, secure := range secures {
		t.Run(name, func(t *testing.T) {
			a, g := serve(t, "a", nil), opened()
			w := start(t, a, func(r *relay.Relay) { r.Gate, r.Secure = g, secure })
			client, upstream := w.dial(t), a.next(t)
			send(t, client, write(1, 1000))
			expect(t, upstream, write(1, 1000))
			send(t, client, write(2, 1000)[:500]) // a message under way is no exception
			expect(t, upstream, write(2, 1000)[:500])
			g.set(false, nil)
			send(t, client, write(2, 1000)[500:])
			expectReset(t, client)
			if n, err := io.Copy(io.Discard, upstream); n != 0 || err == nil {
				t.Errorf("%d bytes passed, %v; want a reset", n, err)
			}
			again := w.dial(t)
			send(t, again, write(2, 1000))
			eventually(t, "it is held", func() bool { return w.Stats().Held == 1 })
			g.set(true, nil)
			expect(t, a.next(t), write(2, 1000))
			w.group.read(func(group *group) {
				if len(group.doubted)+len(group.failed) > 0 {
					t.Errorf("the mount target is blamed: %v %v", group.doubted, group.failed)
				}
			})
		})
	}
}

// secures are the kinds of connection to a mount target.
var secures = map[string]func(context.Context, *net.TCPConn, proxy.Target) (net.Conn, error){"plain": nil, "wrapped": wrap}

// What a full buffer keeps waiting would otherwise pass when the server reads again.
func TestAWriteThatWaitsPassesNothingMoreAfterTheGateIsClosed(t *testing.T) {
	a, g := serve(t, "a", nil), opened()
	w := guard(t, a, g)
	client, upstream := w.dial(t), a.next(t)
	sent := fill(client)
	asked := g.asked.Load()
	eventually(t, "all buffers are full, and the relay waits in a write", func() bool {
		before := asked
		time.Sleep(300 * time.Millisecond)
		asked = g.asked.Load()
		return asked == before
	})
	g.set(false, nil)
	received, err := io.Copy(io.Discard, upstream)
	if err == nil || received >= int64(sent) {
		t.Errorf("of %d bytes %d came, %v; want a reset before all", sent, received, err)
	}
	if more := g.asked.Load() - asked; more != 1 {
		t.Errorf("the gate was asked %d times after it was closed", more)
	}
	expectReset(t, client)
}

func TestFenceDropsWhatIsInBuffers(t *testing.T) {
	for name, secure := range secures {
		t.Run(name, func(t *testing.T) {
			a, g := serve(t, "a", nil), opened()
			w := start(t, a, func(r *relay.Relay) { r.Gate, r.Secure = g, secure })
			client, upstream := w.dial(t), a.next(t)
			_ = upstream.SetReadBuffer(64 << 10)
			idle, unused := w.dial(t), a.next(t)
			sent := fill(client)
			g.set(false, nil)
			w.Fence()
			if stats := w.Stats(); stats.Conns != 0 {
				t.Errorf("after Fence: %+v", stats)
			}
			time.Sleep(50 * time.Millisecond) // that is time enough to send on loopback
			received, err := io.Copy(io.Discard, upstream)
			// The server's own buffer is beyond recall, but nothing can be sent into what it frees.
			if err == nil || received > int64(sent)/4 || sent < 2<<20 {
				t.Errorf("of %d bytes %d came, %v; want few and a reset", sent, received, err)
			}
			expectReset(t, unused)
			expectReset(t, client)
			expectReset(t, idle)
			again := w.dial(t)
			send(t, again, write(9, 10))
			eventually(t, "it is held", func() bool { return w.Stats().Held == 1 })
			g.set(true, nil)
			expect(t, a.next(t), write(9, 10))
		})
	}
}

func TestFenceMayBeCalledByTheGateAndByManyAtOnce(t *testing.T) {
	a, g := serve(t, "a", nil), opened()
	var w *world
	g.introduce = func(string) error { w.Fence(); return nil }
	w = guard(t, a, g)
	w.Fence() // nobody is there
	client, upstream := w.dial(t), a.next(t)
	send(t, client, exchangeID(1, "host-a"))
	expectReset(t, client)
	expectReset(t, upstream)
	for range 8 {
		w.dial(t)
	}
	var fencing sync.WaitGroup
	for range 8 {
		fencing.Go(w.Fence)
	}
	fencing.Wait()
}

// A server that ended its side and reads no more leaves a pair that ends in peace; bytes in a
// socket that nobody holds any more could not be fenced.
func TestAPairThatEndsInPeaceLeavesNothingInBuffers(t *testing.T) {
	a, g := serve(t, "a", nil), opened()
	w := guard(t, a, g)
	client, upstream := w.dial(t), a.next(t)
	_ = upstream.SetReadBuffer(64 << 10)
	data := write(1, 1<<20)
	send(t, client, data)
	_ = client.CloseWrite()
	_ = upstream.CloseWrite()
	expectEnd(t, client)
	eventually(t, "the pair ends", func() bool { return w.Stats().Conns == 0 })
	if received, err := io.Copy(io.Discard, upstream); received >= int64(len(data)) || err == nil {
		t.Errorf("%d bytes came after the end, %v", received, err)
	}
}

func TestASessionIsKeptBackUntilItIsConfirmed(t *testing.T) {
	for name, secure := range secures {
		t.Run(name, func(t *testing.T) {
			a, g := serve(t, "a", nil), opened()
			answer := g.held()
			w := start(t, a, func(r *relay.Relay) { r.Gate, r.Secure = g, secure })
			client, upstream := w.dial(t), a.next(t)
			send(t, client, write(1, 10)+createSession(2)+write(3, 100_000)+write(4, 10))
			expect(t, upstream, write(1, 10)+createSession(2))
			expectNothing(t, upstream)
			callback := oncrpctest.NewCall(2, oncrpctest.Sequence, nil) // of the same xid, but no reply
			send(t, upstream, reply(1, 10)+string(callback.Record()))
			expect(t, client, reply(1, 10)+string(callback.Record()))
			expectNothing(t, upstream)
			if g.confirms.Load() != 0 {
				t.Error("Confirm is called before the reply has come")
			}
			send(t, upstream, reply(2, 100)+reply(5, 10))
			eventually(t, "Confirm is called", func() bool { return g.confirms.Load() == 1 })
			expectNothing(t, upstream)
			got := make([]byte, len(reply(2, 100)))
			_ = client.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, err := io.ReadFull(client, got); n > 12 || !isTimeout(err) {
				t.Errorf("the client hears of the session: %d bytes, %v", n, err)
			} else {
				_ = client.SetReadDeadline(time.Now().Add(patience))
				answer(nil)
				expect(t, client, (reply(2, 100) + reply(5, 10))[n:])
			}
			expect(t, upstream, write(3, 100_000)+write(4, 10))
			if g.confirms.Load() != 1 {
				t.Errorf("Confirm is called %d times", g.confirms.Load())
			}
		})
	}
}

func TestEachSessionIsConfirmed(t *testing.T) {
	a, g := serve(t, "a", nil), opened()
	w := guard(t, a, g)
	client, upstream := w.dial(t), a.next(t)
	for xid := range uint32(20) {
		send(t, client, createSession(xid)+write(1000+xid, 10))
		expect(t, upstream, createSession(xid))
		if n := g.confirms.Load(); n != int64(xid) {
			t.Fatalf("%d replies have come, %d sessions are confirmed", xid, n)
		}
		send(t, upstream, reply(xid, 100))
		expect(t, client, reply(xid, 100))
		expect(t, upstream, write(1000+xid, 10))
		if n := g.confirms.Load(); n != int64(xid)+1 {
			t.Fatalf("%d sessions, %d confirmed", xid+1, n)
		}
	}
}

func TestASessionThatIsNotConfirmedResetsTheClient(t *testing.T) {
	a, g := serve(t, "a", nil), opened()
	answer := g.held()
	answer(errors.New("host-b has the lease"))
	w := guard(t, a, g)
	client, upstream := w.dial(t), a.next(t)
	send(t, client, createSession(1)+write(2, 10))
	expect(t, upstream, createSession(1))
	send(t, upstream, reply(1, 100))
	if n, err := io.Copy(io.Discard, client); n > 12 || err == nil {
		t.Errorf("the client read %d bytes, %v; want a reset", n, err)
	}
	if n, err := io.Copy(io.Discard, upstream); n > 0 || err == nil {
		t.Errorf("the mount target read %d bytes, %v; want a reset", n, err)
	}
	if log := w.log.String(); !strings.Contains(log, "its new session is not confirmed: host-b has the lease") {
		t.Error(log)
	}
}

func TestAClientThatIsLostBetweenItsSessionAndTheConfirmationIsLetGo(t *testing.T) {
	a, g := serve(t, "a", nil), opened()
	g.held()
	w := guard(t, a, g)
	client, upstream := w.dial(t), a.next(t)
	send(t, client, createSession(1))
	expect(t, upstream, createSession(1))
	send(t, upstream, reply(1, 100))
	eventually(t, "Confirm is called", func() bool { return g.confirms.Load() == 1 })
	_ = client.SetLinger(0)
	_ = client.Close()
	eventually(t, "the pair ends", func() bool { return w.Stats().Conns == 0 })
}

func TestAMountTargetThatIsLostInsteadOfAReplyIsReplaced(t *testing.T) {
	for _, how := range []string{"ended", "reset"} {
		t.Run(how, func(t *testing.T) {
			a, g := serve(t, "a", nil), opened()
			w := guard(t, a, g)
			client, upstream := w.dial(t), a.next(t)
			send(t, client, createSession(1)+write(2, 10))
			expect(t, upstream, createSession(1))
			if how == "reset" {
				_ = upstream.SetLinger(0)
			}
			_ = upstream.Close()
			expectReset(t, client)
			if stats := w.Stats(); stats.Lost != 1 || g.confirms.Load() != 0 {
				t.Errorf("%+v, %d confirmed", stats, g.confirms.Load())
			}
		})
	}
}

func TestTheGateHearsTheOwnerBeforeTheCallPasses(t *testing.T) {
	a, g := serve(t, "a", nil), opened()
	introduced := make(chan string)
	g.introduce = func(owner string) error { introduced <- owner; return nil }
	w := guard(t, a, g)
	client, upstream := w.dial(t), a.next(t)
	send(t, client, exchangeID(1, "Linux NFSv4.1 host-a-web"))
	expectNothing(t, upstream)
	if owner := <-introduced; owner != "Linux NFSv4.1 host-a-web" {
		t.Errorf("it heard %q", owner)
	}
	expect(t, upstream, exchangeID(1, "Linux NFSv4.1 host-a-web"))
}

func TestAnOwnerThatTheGateRefusesDoesNotReachTheMountTarget(t *testing.T) {
	a, g := serve(t, "a", nil), opened()
	g.introduce = func(string) error { return errors.New("it cannot be recorded") }
	w := guard(t, a, g)
	client, upstream := w.dial(t), a.next(t)
	send(t, client, exchangeID(1, "host-a"))
	expectReset(t, client)
	if n, err := io.Copy(io.Discard, upstream); n != 0 || err == nil {
		t.Errorf("%d bytes passed, %v; want a reset", n, err)
	}
	if log := w.log.String(); !strings.Contains(log, "it introduces itself as") || !strings.Contains(log, "it cannot be recorded") {
		t.Error(log)
	}
}

func TestWhatIsNotNFSDoesNotPass(t *testing.T) {
	for name, text := range map[string]string{
		"another protocol":             strings.Repeat("GET / HTTP/1.1\r\n", 500),
		"a call of NFSv3":              string(but(func(c *oncrpctest.Call) { c.Version = 3 })),
		"a call of NFSv4.0":            string(but(func(c *oncrpctest.Call) { c.Minor = 0 })),
		"an end within a head":         write(1, 10)[:40],
		"a head that is split forever": strings.Repeat("\x00\x00\x00\x00", 2000),
	} {
		t.Run(name, func(t *testing.T) {
			a, g := serve(t, "a", nil), opened()
			w := guard(t, a, g)
			client, upstream := w.dial(t), a.next(t)
			send(t, client, text)
			_ = client.CloseWrite()
			if n, err := io.Copy(io.Discard, upstream); n != 0 || err == nil {
				t.Errorf("%d bytes passed, %v; want a reset", n, err)
			}
			expectReset(t, client)
		})
	}
}

func but(change func(*oncrpctest.Call)) []byte {
	call := oncrpctest.NewCall(1, oncrpctest.Sequence, nil)
	change(&call)
	return call.Record()
}

func TestAGatedRelayServesPlainClientsOnly(t *testing.T) {
	r := &relay.Relay{Group: &group{}, Gate: opened()}
	if err := r.ServeSecured(t.Context(), listen(t), handshake(t)); err == nil || !strings.Contains(err.Error(), "plain clients only") {
		t.Errorf("ServeSecured: %v", err)
	}
}

func TestAGatedClientFollowsAMove(t *testing.T) {
	a, b, g := serve(t, "a", nil), serve(t, "b", nil), opened()
	w := guard(t, a, g)
	client, old := w.dial(t), a.next(t)
	send(t, client, write(1, 10))
	expect(t, old, write(1, 10))
	w.group.move(b.Target, proxy.CauseDrain)
	expectReset(t, client)
	expectReset(t, old)
	send(t, w.dial(t), write(1, 10))
	expect(t, b.next(t), write(1, 10))
}

func TestHalfCloseIsKeptWithAGate(t *testing.T) {
	for name, secure := range secures {
		for _, first := range []string{"client", "server"} {
			t.Run(name+", "+first+" first", func(t *testing.T) {
				a, g := serve(t, "a", nil), opened()
				w := start(t, a, func(r *relay.Relay) { r.Gate, r.Secure = g, secure })
				client, server := w.dial(t), a.next(t)
				one, two := client, server
				if first == "server" {
					one, two = server, client
				}
				send(t, one, write(1, 100))
				_ = one.CloseWrite()
				expect(t, two, write(1, 100))
				expectEnd(t, two)
				send(t, two, write(2, 100_000))
				expect(t, one, write(2, 100_000))
				_ = two.CloseWrite()
				expectEnd(t, one)
				eventually(t, "the pair ends", func() bool { return w.Stats().Conns == 0 })
			})
		}
	}
}

func TestAnIdleGatedPairGoesOnWhereItStopped(t *testing.T) {
	for name, secure := range secures {
		t.Run(name, func(t *testing.T) {
			a, g := serve(t, "a", nil), opened()
			w := start(t, a, func(r *relay.Relay) { r.Gate, r.Secure = g, secure })
			client, upstream := w.dial(t), a.next(t)
			ask, answer := write(1, 200_000)+createSession(2), reply(1, 200_000)+reply(2, 100)
			slowly := func(conn *net.TCPConn, text string, pauses ...int) {
				at := 0
				for _, pause := range pauses {
					send(t, conn, text[at:pause])
					at = pause
					time.Sleep(10 * time.Millisecond)
					w.Look(time.Now())
					w.Look(time.Now().Add(time.Minute)) // parks
				}
				send(t, conn, text[at:])
			}
			slowly(client, ask, 3, 50, 10_000, 150_000, len(ask)-150, len(ask)-3)
			expect(t, upstream, ask)
			slowly(upstream, answer, 3, 9, 10_000, 150_000, 200_010)
			expect(t, client, answer)
			send(t, client, write(3, 10))
			expect(t, upstream, write(3, 10))
			if g.confirms.Load() != 1 {
				t.Error("not confirmed")
			}
		})
	}
}
