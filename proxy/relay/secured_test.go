package relay_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
)

// serveSecured has the relay of a world listen for clients that do what open asks.
func (w *world) serveSecured(t *testing.T, open relay.Opener) (addr string) {
	t.Helper()
	listener := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := w.ServeSecured(ctx, listener, open); err != nil {
			t.Errorf("ServeSecured: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		serving.Wait()
	})
	return listener.Addr().String()
}

// handshake is an Opener that takes everybody who speaks TLS.
func handshake(t *testing.T) relay.Opener {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	return func(ctx context.Context, conn *net.TCPConn) (net.Conn, error) {
		secured := tls.Server(conn, config)
		return secured, secured.HandshakeContext(ctx)
	}
}

func dialTLS(t *testing.T, addr string) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func TestBytesOfASecuredClientPassWithPausesAndHalfClose(t *testing.T) {
	a := serve(t, "a", func(conn *net.TCPConn) {
		if _, err := io.Copy(conn, conn); err == nil {
			_ = conn.CloseWrite()
		}
		_, _ = io.Copy(io.Discard, conn)
	})
	w := start(t, a, nil)
	client := dialTLS(t, w.serveSecured(t, handshake(t)))
	for range 3 {
		send(t, client, "hello")
		expect(t, client, "hello")
		w.Look(time.Now())
		w.Look(time.Now().Add(time.Minute)) // parks
	}
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = client.Write(data)
		_ = client.CloseWrite()
	})
	if received, err := io.ReadAll(client); !bytes.Equal(received, data) || err != nil {
		t.Errorf("of %d bytes %d came back, or others, %v", len(data), len(received), err)
	}
	sending.Wait()
	eventually(t, "the pair ends", func() bool { return w.Stats().Conns == 0 })
}

func TestASecuredClientFollowsAMove(t *testing.T) {
	a, b := serve(t, "a", echo), serve(t, "b", nil)
	w := start(t, a, nil)
	addr := w.serveSecured(t, handshake(t))
	client := dialTLS(t, addr)
	send(t, client, "hello")
	expect(t, client, "hello")
	w.group.move(b.Target, "check")
	upstream := b.next(t)
	expectReset(t, client)
	again := dialTLS(t, addr)
	send(t, again, "again")
	expect(t, upstream, "again")
}

func TestAClientThatProvesNothingCostsTheMountTargetNothing(t *testing.T) {
	a := serve(t, "a", nil)
	w := start(t, a, nil)
	addr := w.serveSecured(t, func(context.Context, *net.TCPConn) (net.Conn, error) {
		return nil, errors.New("nobody knows it")
	})
	for range 20 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		// It may read an alert first; whatever comes, it is an end.
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	eventually(t, "all are gone", func() bool { return w.Stats().Conns == 0 })
	if stats := w.Stats(); stats.NotAdmitted != 20 || stats.Handshakes != 0 || len(a.conns) != 0 {
		t.Errorf("%+v, %d connections to the mount target", stats, len(a.conns))
	}
	if n := strings.Count(w.log.String(), "nobody knows it"); n != 1 {
		t.Errorf("%d lines:\n%s", n, w.log)
	}
}

// Whoever begins handshakes and never ends them has few places, and only for seconds.
func TestSlowHandshakesDisturbNobody(t *testing.T) {
	// A busy machine takes seconds as well, now and then. Whoever waits for slow handshakes does so each time.
	var late []string
	for range 3 {
		if late = beginHandshakes(t); len(late) == 0 {
			return
		}
		t.Log(late)
	}
	t.Error(late)
}

// beginHandshakes has clients begin handshakes that they never end, and tells what took too long meanwhile.
func beginHandshakes(t *testing.T) (late []string) {
	t.Helper()
	const slow = 300
	a := serve(t, "a", echo)
	w := start(t, a, nil)
	addr := w.serveSecured(t, handshake(t))
	before := dialTLS(t, addr)
	send(t, before, "hello")
	expect(t, before, "hello")
	ended := make(chan time.Duration, slow)
	for i := range slow {
		begun := time.Now()
		conn, err := net.Dial("tcp", addr)
		if errors.Is(err, syscall.ECONNRESET) {
			ended <- 0 // refused before Dial looked
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i%2 == 0 {
			_, _ = io.WriteString(conn, "\x16\x03\x01\x02\x00\x01") // the first bytes of a handshake
		}
		go func() {
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			_, _ = io.Copy(io.Discard, conn)
			ended <- time.Since(begun)
		}()
	}
	for begun := time.Now(); w.Stats().Handshakes <= 100; time.Sleep(2 * time.Millisecond) {
		if time.Since(begun) > 5*time.Second {
			return []string{"the handshakes are not under way"}
		}
	}
	send(t, before, "still there")
	expect(t, before, "still there")
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	other := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	_ = other.SetDeadline(time.Now().Add(patience))
	start := time.Now()
	send(t, other, "another comes")
	expect(t, other, "another comes")
	if took := time.Since(start); took > 4*time.Second {
		late = append(late, fmt.Sprintf("the other client waited for %v", took))
	}
	longest := time.Duration(0)
	for range slow {
		longest = max(longest, <-ended)
	}
	if longest > 8*time.Second {
		late = append(late, fmt.Sprintf("one that proved nothing was there for %v", longest))
	}
	if !strings.Contains(w.log.String(), "handshakes under way, which is the limit for one address") {
		t.Errorf("no line:\n%s", w.log)
	}
	return late
}

func TestAClientThatHasToSpeakFirst(t *testing.T) {
	a := serve(t, "a", nil)
	w := start(t, a, func(r *relay.Relay) { r.SpeakFirst = 4 * time.Second })
	silent, gone, speaks := w.dial(t), w.dial(t), w.dial(t)
	eventually(t, "all are there", func() bool { return w.Stats().Conns == 3 })
	_ = gone.Close()
	eventually(t, "one is gone", func() bool { return w.Stats().Conns == 2 })
	if len(a.conns) != 0 {
		t.Error("somebody who said nothing has a connection to the mount target")
	}
	send(t, speaks, "hello")
	upstream := a.next(t)
	expect(t, upstream, "hello")
	expectReset(t, silent)
	if n := strings.Count(w.log.String(), "it said nothing for 4s"); n != 1 {
		t.Errorf("%d lines:\n%s", n, w.log)
	}
	// The limit was for the first byte only.
	time.Sleep(4100 * time.Millisecond)
	send(t, upstream, "answer")
	expect(t, speaks, "answer")
	if len(a.conns) != 0 {
		t.Error("there is another connection to the mount target")
	}
}
