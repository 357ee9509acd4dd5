package relay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
)

func TestAMoveFindsAConnectionReadyAndResetsTheClient(t *testing.T) {
	a, b := serve(t, "a", nil), serve(t, "b", nil)
	w := start(t, a, func(r *relay.Relay) { r.MaxConns = 1 })
	client, old := w.dial(t), a.next(t)
	send(t, client, "first")
	expect(t, old, "first")
	w.group.move(b.Target, proxy.CauseTimeout)
	expectReset(t, client)
	ready := b.next(t)
	if stats := w.Stats(); stats.Ready != 1 || stats.Moved != 1 {
		t.Errorf("when the client is reset: %+v", stats)
	}
	expectReset(t, old)
	again := w.dial(t)
	send(t, again, "second")
	expect(t, ready, "second")
	w.group.read(func(g *group) {
		if g.connected != 2 {
			t.Errorf("%d connections were made, want the ready one to be taken", g.connected)
		}
	})
}

func TestAClientIsNotResetBeforeTheNewMountTargetAnswers(t *testing.T) {
	a, b := serve(t, "a", nil), serve(t, "b", nil)
	w := start(t, a, nil)
	client, old := w.dial(t), a.next(t)
	release := w.group.hold()
	w.group.move(b.Target, proxy.CauseDrain)
	for range 5 {
		send(t, client, "still here")
		expect(t, old, "still here")
		time.Sleep(10 * time.Millisecond)
	}
	release()
	expectReset(t, client)
}

func TestAMoveBackLeavesTheClientWhereItIs(t *testing.T) {
	a, b := serve(t, "a", nil), serve(t, "b", nil)
	w := start(t, a, nil)
	client, old := w.dial(t), a.next(t)
	release := w.group.hold()
	w.group.move(b.Target, proxy.CauseDrain)
	eventually(t, "another connection is sought", func() (sought bool) {
		w.group.read(func(g *group) { sought = g.asked == 2 })
		return sought
	})
	w.group.move(a.Target, proxy.CauseHome)
	release()
	expectReset(t, a.next(t)) // what was sought is dropped, not kept
	send(t, client, "still here")
	expect(t, old, "still here")
}

func TestAnUpstreamResetFindsAConnectionReadyBeforeTheClientHears(t *testing.T) {
	a := serve(t, "a", nil)
	w := start(t, a, nil)
	client, old := w.dial(t), a.next(t)
	send(t, old, "half a record")
	expect(t, client, "half a record")
	release := w.group.hold()
	_ = old.SetLinger(0)
	_ = old.Close()
	_ = client.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Fatalf("the client hears of it (%v) while no mount target answers", err)
	}
	release()
	_ = client.SetReadDeadline(time.Now().Add(patience))
	expectReset(t, client)
	if stats := w.Stats(); stats.Ready != 1 || stats.Lost != 1 {
		t.Errorf("when the client is reset: %+v", stats)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestAnUpstreamEndFindsAConnectionReadyBeforeTheClientHears(t *testing.T) {
	a := serve(t, "a", nil)
	w := start(t, a, nil)
	client, old := w.dial(t), a.next(t)
	_ = old.Close()
	expectEnd(t, client)
	if stats := w.Stats(); stats.Ready != 1 {
		t.Errorf("when the client hears: %+v", stats)
	}
	w.group.read(func(g *group) {
		if len(g.doubted) != 1 {
			t.Errorf("a mount target that ends a connection without a byte is doubted %d times", len(g.doubted))
		}
	})
}

func TestAClientsResetInTheMiddleOfARecordReachesTheMountTarget(t *testing.T) {
	a := serve(t, "a", nil)
	w := start(t, a, nil)
	client, upstream := w.dial(t), a.next(t)
	send(t, client, "half a rec")
	expect(t, upstream, "half a rec")
	_ = client.SetLinger(0)
	_ = client.Close()
	expectReset(t, upstream)
	eventually(t, "the pair ends", func() bool { return w.Stats().Conns == 0 })
	if stats := w.Stats(); stats.Lost != 0 || stats.Ready != 0 || stats.Targets[0].Out != 10 {
		t.Errorf("%+v", stats)
	}
}

func TestAClientIsHeldUnreadUntilAMountTargetAnswers(t *testing.T) {
	a := serve(t, "a", nil)
	w := start(t, a, nil)
	release := w.group.hold()
	defer release()
	client := w.dial(t)
	_ = client.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	sent := 0
	for chunk := make([]byte, 1<<20); ; {
		n, err := client.Write(chunk)
		sent += n
		if err != nil {
			break
		}
	}
	if sent > 64<<20 {
		t.Errorf("a held client sent %d MiB", sent>>20)
	}
	if stats := w.Stats(); stats.Held != 1 {
		t.Errorf("%+v", stats)
	}
	release()
	if n, err := io.CopyN(io.Discard, a.next(t), int64(sent)); err != nil {
		t.Errorf("%d of %d bytes came: %v", n, sent, err)
	}
}

func TestAHeldClientThatGoesIsLetGo(t *testing.T) {
	a := serve(t, "a", nil)
	w := start(t, a, nil)
	defer w.group.hold()()
	resets, ends := w.dial(t), w.dial(t)
	eventually(t, "both are held", func() bool { return w.Stats().Held == 2 })
	_ = resets.SetLinger(0)
	_ = resets.Close()
	_ = ends.Close()
	eventually(t, "the first is gone", func() bool { return w.Stats().Held == 1 })
	eventually(t, "the second is gone", func() bool { return w.Stats().Held == 0 })
}

// expectRefused dials: the reset may come before the dialer has looked.
func (w *world) expectRefused(t *testing.T) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", w.addr, patience)
	if err != nil {
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	expectReset(t, conn)
}

func TestClientsOutsideAdmitAreRefusedWithOneLine(t *testing.T) {
	a := serve(t, "a", echo)
	w := start(t, a, func(r *relay.Relay) {
		r.Admit = func(*net.TCPConn) error { return errors.New("it is outside 10.0.0.0/8") }
		r.MaxConns = 1
	})
	for range 50 {
		w.expectRefused(t)
	}
	// The client may see its reset before it is counted.
	eventually(t, "all are counted", func() bool { return w.Stats().NotAdmitted == 50 })
	if stats := w.Stats(); stats.Accepted != 0 {
		t.Errorf("%+v", stats)
	}
	if n := strings.Count(w.log.String(), "refused client 127.0.0.1:"); n != 1 || !strings.Contains(w.log.String(), "outside 10.0.0.0/8") {
		t.Errorf("%d lines:\n%s", n, w.log)
	}
}

func TestClientsAboveALimitAreRefusedAndTheOthersUndisturbed(t *testing.T) {
	for name, limit := range map[string]func(*relay.Relay){
		"of all":        func(r *relay.Relay) { r.MaxConns = 2 },
		"of one client": func(r *relay.Relay) { r.MaxPerClient = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			a := serve(t, "a", echo)
			w := start(t, a, limit)
			first, second := w.dial(t), w.dial(t)
			eventually(t, "both are there", func() bool { return w.Stats().Conns == 2 })
			for range 20 {
				w.expectRefused(t)
			}
			send(t, first, "hello")
			expect(t, first, "hello")
			_ = second.Close()
			eventually(t, "one is gone", func() bool { return w.Stats().Conns == 1 })
			third := w.dial(t)
			send(t, third, "hello")
			expect(t, third, "hello")
			if stats := w.Stats(); stats.Shed != 20 || strings.Count(w.log.String(), "which is the limit") != 1 {
				t.Errorf("%+v\n%s", stats, w.log)
			}
		})
	}
}

func TestTheDescriptorLimitDisturbsNobodyWhoIsConnected(t *testing.T) {
	a := serve(t, "a", nil)
	w := start(t, a, nil)
	client := w.dial(t)
	upstream := a.next(t)
	// The last client's socket exists before the limit: only accept needs one more.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	lowered := syscall.Rlimit{Cur: 3, Max: limit.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lowered); err != nil {
		t.Fatal(err)
	}
	restore := sync.OnceFunc(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) })
	defer restore()
	var port int
	if _, err := fmt.Sscanf(w.addr, "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a line about it", func() bool { return strings.Contains(w.log.String(), "too many open files") })
	send(t, client, "no pipe can be made for this")
	expect(t, upstream, "no pipe can be made for this")
	restore()
	eventually(t, "the waiting client is served", func() bool { return w.Stats().Conns == 2 })
	if n := strings.Count(w.log.String(), "too many open files"); n != 1 {
		t.Errorf("%d lines", n)
	}
}

// A filter that drops all that comes makes a black hole of one connection.
func blackHole(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const dropAll = 0
	if err := raw.Control(func(fd uintptr) {
		err = syscall.AttachLsf(int(fd), []syscall.SockFilter{*syscall.LsfStmt(syscall.BPF_RET|syscall.BPF_K, dropAll)}) //nolint:staticcheck // needs no dependency
	}); err != nil {
		t.Fatal(err)
	}
	if errors.Is(err, syscall.EPERM) && os.Getuid() != 0 {
		t.Skip("needs root: this kernel lets nobody else filter what comes to a socket")
	} else if err != nil {
		t.Fatal(err)
	}
}

func TestSilenceIsDoubtedWithinSecondsAndProgressIsTold(t *testing.T) {
	a := serve(t, "a", nil)
	w := start(t, a, nil)
	client, upstream := w.dial(t), a.next(t)
	send(t, client, "hello")
	expect(t, upstream, "hello")
	eventually(t, "progress", func() (told bool) {
		w.group.read(func(g *group) { told = g.answered > 0 })
		return told
	})
	time.Sleep(2500 * time.Millisecond) // idle for longer than the limit: no doubt follows from that
	send(t, client, "hello")
	expect(t, upstream, "hello")
	w.Look(time.Now())
	w.group.read(func(g *group) {
		if len(g.doubted) > 0 {
			t.Errorf("doubted without a reason: %v", g.doubted)
		}
	})
	blackHole(t, upstream)
	at := time.Now()
	send(t, client, "into the void")
	eventually(t, "doubt", func() (told bool) {
		w.group.read(func(g *group) { told = len(g.doubted) > 0 })
		return told
	})
	if took := time.Since(at); took > patience/3 || took < time.Second {
		t.Errorf("doubted after %s", took)
	}
}

// It takes ten seconds. With the kernel's own limits it would be minutes for the idle client
// and a quarter of an hour for the other.
func TestClientsThatAreGoneWithoutAWordGiveTheirPlacesBack(t *testing.T) {
	a := serve(t, "a", nil)
	w := start(t, a, nil)
	idle := w.dial(t)
	a.next(t)
	reading := w.dial(t)
	upstream := a.next(t)
	send(t, reading, "read")
	expect(t, upstream, "read")
	blackHole(t, idle)
	blackHole(t, reading)
	send(t, upstream, "what was read")
	eventually(t, "nobody is connected", func() bool { return w.Stats().Conns == 0 })
	w.group.read(func(g *group) {
		if len(g.doubted)+len(g.failed) > 0 {
			t.Errorf("the mount target is blamed: %v, %v", g.doubted, g.failed)
		}
	})
}

func TestIdlePairsGiveTheirPipesBack(t *testing.T) {
	a := serve(t, "a", echo)
	w := start(t, a, nil)
	const pairs = 50
	var clients []*net.TCPConn
	for range pairs {
		clients = append(clients, w.dial(t))
	}
	eventually(t, "all are connected", func() bool { s := w.Stats(); return s.Conns == pairs && s.Held == 0 })
	idle := descriptors(t)
	talk := func(text string) {
		for _, client := range clients {
			send(t, client, text)
			expect(t, client, text)
		}
	}
	talk("hello")
	if little := descriptors(t); little > idle+8 {
		t.Errorf("%d descriptors idle, %d after a few bytes", idle, little)
	}
	talk(strings.Repeat("much", 32<<10))
	if busy := descriptors(t); busy < idle+2*pairs {
		t.Errorf("%d descriptors idle, %d busy: are pipes used?", idle, busy)
	}
	now := time.Now()
	w.Look(now)
	eventually(t, "the pipes are gone", func() bool {
		// An acknowledgement may come late, and count as traffic of that minute.
		now = now.Add(time.Minute)
		w.Look(now)
		runtime.GC()
		return descriptors(t) <= idle+8
	})
	talk("hello again")
}

func TestShutdownWaitsForClientsAndThenResetsThem(t *testing.T) {
	a := serve(t, "a", echo)
	w := start(t, a, nil)
	client := w.dial(t)
	send(t, client, "hello")
	expect(t, client, "hello")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Shutdown(ctx) }()
	time.Sleep(20 * time.Millisecond)
	send(t, client, "still served")
	expect(t, client, "still served")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	expectReset(t, client)
}

func TestNothingIsLeftAfterAThousandConnectionsAndTwoHundredMoves(t *testing.T) {
	a, b := serve(t, "a", echo), serve(t, "b", echo)
	goroutines, open, files := runtime.NumGoroutine(), sockets(t), 0
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	t.Run("traffic", func(t *testing.T) {
		w := start(t, a, nil)
		files = descriptors(t)
		targets := [2]proxy.Target{a.Target, b.Target}
		for i := range 1000 {
			conn, err := net.Dial("tcp", w.addr)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write([]byte("hello"))
			switch {
			case i%5 == 0:
				w.group.move(targets[(i/5+1)%2], proxy.CauseCheck)
			case i%3 == 0:
				_, _ = io.ReadFull(conn, make([]byte, 5))
			}
			_ = conn.Close()
		}
		eventually(t, "all pairs end", func() bool { return w.Stats().Conns == 0 })
	})
	// Before a collection, which would close what was forgotten.
	eventually(t, "sockets are as before", func() bool { return sockets(t) <= open })
	eventually(t, "goroutines and descriptors are as before", func() bool {
		runtime.GC() // closes the pipes
		return runtime.NumGoroutine() <= goroutines+2 && descriptors(t) <= files+4
	})
}

func TestTwoThousandConnectionsAtOnceAreServed(t *testing.T) {
	const count = 2000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < 8*count+200 {
		t.Skipf("needs %d open files, the limit is %d", 8*count+200, limit.Cur)
	}
	a := serve(t, "a", echo)
	w := start(t, a, nil)
	var clients sync.WaitGroup
	for i := range count {
		clients.Go(func() {
			conn, err := net.DialTimeout("tcp", w.addr, patience)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			text := fmt.Sprintf("client %04d", i)
			_, _ = io.WriteString(conn, text)
			got := make([]byte, len(text))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
				t.Errorf("client %d received %q, %v", i, got, err)
			}
		})
	}
	clients.Wait()
	eventually(t, "all pairs end", func() bool { return w.Stats().Conns == 0 })
	// The kernel counts a FIN as a byte; that of a connection which is closed just as it comes
	// cannot be told from one.
	const few = count / 100
	if stats := w.Stats(); stats.Accepted != count || stats.Targets[0].In-count*11 > few {
		t.Errorf("%+v", stats)
	}
}
