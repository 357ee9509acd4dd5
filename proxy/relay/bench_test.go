package relay_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc/oncrpctest"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
)

// paths are the ways to the same mount target that are compared.
func paths(b *testing.B, run func(b *testing.B, conn *net.TCPConn), handle func(*net.TCPConn)) {
	target := serve(b, "a", handle)
	b.Run("direct", func(b *testing.B) {
		conn, err := net.Dial("tcp", target.Addr.String())
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		run(b, conn.(*net.TCPConn))
	})
	for name, secure := range map[string]func(context.Context, *net.TCPConn, proxy.Target) (net.Conn, error){"relay": nil, "relay-copied": wrap} {
		b.Run(name, func(b *testing.B) {
			w := start(b, target, func(r *relay.Relay) { r.Secure = secure })
			conn, err := net.Dial("tcp", w.addr)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			run(b, conn.(*net.TCPConn))
		})
	}
}

func BenchmarkPingPong(b *testing.B) {
	paths(b, func(b *testing.B, conn *net.TCPConn) {
		message := make([]byte, 128)
		for b.Loop() {
			if _, err := conn.Write(message); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(conn, message); err != nil {
				b.Fatal(err)
			}
		}
	}, echo)
}

// BenchmarkBulk reads answers of 1 MiB, eight of which are asked for in advance.
func BenchmarkBulk(b *testing.B) {
	const answer, ahead = 1 << 20, 8
	paths(b, func(b *testing.B, conn *net.TCPConn) {
		b.SetBytes(answer)
		ask := make([]byte, ahead)
		if _, err := conn.Write(ask); err != nil {
			b.Fatal(err)
		}
		buffer := make([]byte, answer)
		for b.Loop() {
			if _, err := conn.Write(ask[:1]); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(conn, buffer); err != nil {
				b.Fatal(err)
			}
		}
	}, func(conn *net.TCPConn) {
		data, ask := make([]byte, answer), make([]byte, 1)
		for {
			if _, err := io.ReadFull(conn, ask); err != nil {
				return
			}
			if _, err := conn.Write(data); err != nil {
				return
			}
		}
	})
}

// BenchmarkGate sends writes of 1 MiB to an NFS server that answers each, and reads answers of
// 1 MiB, eight of which are under way, plainly and with a gate; and small calls one by one.
func BenchmarkGate(b *testing.B) {
	target := serve(b, "a", acknowledge)
	for _, c := range []struct {
		name         string
		ahead        int
		call, answer int
	}{{"write", 8, 1 << 20, 0}, {"read", 8, 0, 1 << 20}, {"small", 0, 100, 0}} {
		for _, kind := range []string{"plain", "gated", "plain-copied", "gated-copied"} {
			b.Run(c.name+"/"+kind, func(b *testing.B) {
				w := start(b, target, func(r *relay.Relay) {
					if strings.HasPrefix(kind, "gated") {
						r.Gate = opened()
					}
					if strings.HasSuffix(kind, "copied") {
						r.Secure = wrap
					}
				})
				conn, err := net.Dial("tcp", w.addr)
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				exchange(b, conn, c.call, c.answer, c.ahead)
			})
		}
	}
}

// exchange has a number of calls under way.
func exchange(b *testing.B, conn net.Conn, call, answer, ahead int) {
	if call+answer >= 1<<20 {
		b.SetBytes(int64(call + answer))
	}
	args := binary.BigEndian.AppendUint32(make([]byte, call), uint32(answer))
	ask := oncrpctest.NewCall(1, oncrpctest.Sequence, args).Record()
	got := make([]byte, len(oncrpctest.Reply(1, answer)))
	asked := make(chan struct{}, ahead+1)
	done := make(chan error, 1)
	go func() {
		var err error
		for range asked {
			if err == nil {
				_, err = conn.Write(ask)
			}
		}
		done <- err
	}()
	for range ahead {
		asked <- struct{}{}
	}
	for b.Loop() {
		asked <- struct{}{}
		if _, err := io.ReadFull(conn, got); err != nil {
			b.Fatal(err)
		}
	}
	close(asked)
	for range ahead {
		if _, err := io.ReadFull(conn, got); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// acknowledge answers each call with as many bytes as its last word says.
func acknowledge(conn *net.TCPConn) {
	buffer := make([]byte, 2<<20)
	answers := make(map[uint32][]byte)
	for {
		if _, err := io.ReadFull(conn, buffer[:4]); err != nil {
			return
		}
		call := buffer[:binary.BigEndian.Uint32(buffer)&^(1<<31)]
		if _, err := io.ReadFull(conn, call); err != nil {
			return
		}
		size := binary.BigEndian.Uint32(call[len(call)-4:])
		if answers[size] == nil {
			answers[size] = oncrpctest.Reply(1, int(size))
		}
		if _, err := conn.Write(answers[size]); err != nil {
			return
		}
	}
}
