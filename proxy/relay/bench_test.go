package relay_test

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
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
