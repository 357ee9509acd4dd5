package relay_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
)

// wrap hides that a connection is a TCP connection; half-close stays.
func wrap(_ context.Context, conn *net.TCPConn, _ proxy.Target) (net.Conn, error) {
	return struct{ wrapped }{wrapped{conn}}, nil
}

type wrapped struct{ tcp *net.TCPConn }

func (w wrapped) Read(data []byte) (int, error)      { return w.tcp.Read(data) }
func (w wrapped) Write(data []byte) (int, error)     { return w.tcp.Write(data) }
func (w wrapped) Close() error                       { return w.tcp.Close() }
func (w wrapped) CloseWrite() error                  { return w.tcp.CloseWrite() }
func (w wrapped) LocalAddr() net.Addr                { return w.tcp.LocalAddr() }
func (w wrapped) RemoteAddr() net.Addr               { return w.tcp.RemoteAddr() }
func (w wrapped) SetDeadline(at time.Time) error     { return w.tcp.SetDeadline(at) }
func (w wrapped) SetReadDeadline(at time.Time) error { return w.tcp.SetReadDeadline(at) }
func (w wrapped) SetWriteDeadline(at time.Time) error {
	return w.tcp.SetWriteDeadline(at)
}

// stream sends size random bytes in slices and returns their hash.
func stream(conn *net.TCPConn, seed uint64, size, slice int) (string, error) {
	source := rand.NewChaCha8([32]byte{byte(seed)})
	hash := sha256.New()
	data := make([]byte, slice)
	for sent := 0; sent < size; sent += slice {
		_, _ = source.Read(data)
		hash.Write(data)
		if _, err := conn.Write(data); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x", hash.Sum(nil)), conn.CloseWrite()
}

// drain reads to the end; a slow reader pauses now and then.
func drain(conn *net.TCPConn, slow bool) (string, int64, error) {
	hash := sha256.New()
	if !slow {
		n, err := io.Copy(hash, conn)
		return fmt.Sprintf("%x", hash.Sum(nil)), n, err
	}
	total := int64(0)
	for {
		n, err := io.CopyN(hash, conn, 512<<10)
		total += n
		if err == io.EOF { //nolint:errorlint // CopyN's contract
			return fmt.Sprintf("%x", hash.Sum(nil)), total, nil
		} else if err != nil {
			return "", total, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestBytesInAreBytesOutBothWays(t *testing.T) {
	for _, c := range []struct {
		name        string
		size, slice int
		slow        bool
	}{
		{"single bytes", 20_000, 1, false},
		{"records of 1 MiB", 24 << 20, 1 << 20, false},
		{"a slow reader", 8 << 20, 1 << 20, true},
		{"odd sizes", 5 * 999_983, 999_983, false},
	} {
		for name, secure := range map[string]func(context.Context, *net.TCPConn, proxy.Target) (net.Conn, error){"plain": nil, "wrapped": wrap} {
			t.Run(c.name+", "+name, func(t *testing.T) {
				target := serve(t, "a", nil)
				w := start(t, target, func(r *relay.Relay) { r.Secure = secure })
				client := w.dial(t)
				server := target.next(t)
				type result struct {
					hash string
					err  error
				}
				sent := make(chan result, 2)
				for seed, conn := range []*net.TCPConn{client, server} {
					go func() {
						hash, err := stream(conn, uint64(seed), c.size, c.slice)
						sent <- result{fmt.Sprint(seed, hash), err}
					}()
				}
				received := make(chan result, 2)
				for seed, conn := range []*net.TCPConn{server, client} {
					go func() {
						hash, _, err := drain(conn, c.slow)
						received <- result{fmt.Sprint(seed, hash), err}
					}()
				}
				hashes := make(map[string]int)
				for range 2 {
					for _, one := range []result{<-sent, <-received} {
						if one.err != nil {
							t.Error(one.err)
						}
						hashes[one.hash]++
					}
				}
				if len(hashes) != 2 {
					t.Errorf("the hashes of what was sent and received differ: %v", hashes)
				}
				eventually(t, "the pair ends when both sides have", func() bool { return w.Stats().Conns == 0 })
				stats := w.Stats().Targets[0]
				if stats.Out != uint64(c.size) || stats.In != uint64(c.size) {
					t.Errorf("%d bytes out, %d in; want %d each", stats.Out, stats.In, c.size)
				}
			})
		}
	}
}

// entered is how many bytes this process has read and written by system calls.
func entered(t *testing.T) (count int) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var n int
		if _, err := fmt.Sscanf(line, "rchar: %d", &n); err == nil {
			count += n
		} else if _, err := fmt.Sscanf(line, "wchar: %d", &n); err == nil {
			count += n
		}
	}
	return count
}

// splice(2) moves no byte into the process, so that /proc/self/io has only what
// the two ends in this test do: each byte written once and read once.
func TestPlainConnectionsAreSplicedAndOthersAreNot(t *testing.T) {
	const size = 32 << 20
	for name, c := range map[string]struct {
		secure func(context.Context, *net.TCPConn, proxy.Target) (net.Conn, error)
		times  int
	}{"plain": {nil, 2}, "wrapped": {wrap, 4}} {
		t.Run(name, func(t *testing.T) {
			target := serve(t, "a", nil)
			w := start(t, target, func(r *relay.Relay) { r.Secure = c.secure })
			client, server := w.dial(t), target.next(t)
			for _, way := range [][2]*net.TCPConn{{client, server}, {server, client}} {
				before := entered(t)
				go func() { _, _ = stream(way[0], 1, size, 1<<20) }()
				if _, n, err := drain(way[1], false); n != size || err != nil {
					t.Fatalf("received %d bytes, %v", n, err)
				}
				if times := float64(entered(t)-before) / size; times < float64(c.times)-0.1 || times > float64(c.times)+0.1 {
					t.Errorf("each byte crossed the process's border %.2f times, want %d", times, c.times)
				}
			}
		})
	}
}

func TestHalfCloseIsKeptInBothOrders(t *testing.T) {
	for name, secure := range map[string]func(context.Context, *net.TCPConn, proxy.Target) (net.Conn, error){"plain": nil, "wrapped": wrap} {
		for _, first := range []string{"client", "server"} {
			t.Run(name+", "+first+" first", func(t *testing.T) {
				target := serve(t, "a", nil)
				w := start(t, target, func(r *relay.Relay) { r.Secure = secure })
				client, server := w.dial(t), target.next(t)
				one, two := client, server
				if first == "server" {
					one, two = server, client
				}
				send(t, one, "question")
				_ = one.CloseWrite()
				expect(t, two, "question")
				expectEnd(t, two)
				send(t, two, "a late answer")
				expect(t, one, "a late answer")
				_ = two.CloseWrite()
				expectEnd(t, one)
				eventually(t, "the pair ends", func() bool { return w.Stats().Conns == 0 })
			})
		}
	}
}

func TestMemoryIsBoundedWithASlowReaderBehind(t *testing.T) {
	target := serve(t, "a", nil)
	w := start(t, target, func(r *relay.Relay) { r.Secure = wrap })
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	for range 20 {
		client := w.dial(t)
		target.next(t) // which never reads
		_ = client.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		for {
			if _, err := client.Write(chunk); err != nil {
				break
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 20*(256<<10)+4<<20 {
		t.Errorf("20 stalled clients take %d KiB", grown>>10)
	}
}
