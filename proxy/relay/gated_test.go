package relay_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc/oncrpctest"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
)

// message reads one message.
func message(conn io.Reader) (whole []byte, err error) {
	var mark [4]byte
	for mark[0]&0x80 == 0 {
		if _, err := io.ReadFull(conn, mark[:]); err != nil {
			return nil, err
		}
		had := len(whole)
		whole = append(whole, make([]byte, binary.BigEndian.Uint32(mark[:])&^(1<<31))...)
		if _, err := io.ReadFull(conn, whole[had:]); err != nil {
			return nil, err
		}
	}
	return whole, nil
}

// answer is a server that answers each call with its hash, and with as many bytes more as the
// call's last byte says in units of 64 KiB.
func answer(conn io.ReadWriter) {
	for {
		call, err := message(conn)
		if err != nil {
			return
		}
		hash := sha256.Sum256(call)
		body := append(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(call)), 0, 0, 0, 1)
		body = append(append(body, hash[:]...), make([]byte, int(call[len(call)-1])*64<<10)...)
		if _, err := conn.Write(oncrpctest.Fragments(body, 1<<20)); err != nil {
			return
		}
	}
}

// someCalls is what a client sends: sessions, writes of 1 MiB, small calls, in fragments and whole.
func someCalls(client int) (records [][]byte) {
	add := func(message []byte, fragment int) {
		records = append(records, oncrpctest.Fragments(message, fragment))
	}
	for i := range 40 {
		xid := uint32(client)<<16 | uint32(i)
		ordinary := func(size int, answer byte) []byte {
			data := bytes.Repeat([]byte{byte(i), byte(client)}, size/2)
			return oncrpctest.NewCall(xid, oncrpctest.Sequence, append(data, answer)).Message()
		}
		switch i % 5 {
		case 0:
			add(oncrpctest.NewCall(xid, oncrpctest.CreateSession, make([]byte, 80)).Message(), 1<<20)
		case 1:
			add(ordinary(1<<20, 0), 2<<20)
		case 2:
			add(ordinary(20, 16), 2<<20)
		case 3:
			add(ordinary(300_000, 1), 7)
		case 4:
			add(oncrpctest.NewCall(xid, oncrpctest.ExchangeID, append(oncrpctest.Owner("host"), 0)).Message(), 50)
		}
	}
	return records
}

func TestPipelinedCallsArriveWholeAndInOrder(t *testing.T) {
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	overTLS := func(ctx context.Context, conn *net.TCPConn, _ proxy.Target) (net.Conn, error) {
		secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		return secured, secured.HandshakeContext(ctx)
	}
	for name, c := range map[string]struct {
		secure func(context.Context, *net.TCPConn, proxy.Target) (net.Conn, error)
		handle func(*net.TCPConn)
	}{
		"plain":   {nil, func(conn *net.TCPConn) { answer(conn) }},
		"wrapped": {wrap, func(conn *net.TCPConn) { answer(conn) }},
		"TLS":     {overTLS, func(conn *net.TCPConn) { answer(tls.Server(conn, config)) }},
	} {
		t.Run(name, func(t *testing.T) {
			const clients = 4
			g := opened()
			w := start(t, serve(t, "a", c.handle), func(r *relay.Relay) { r.Gate, r.Secure = g, c.secure })
			var running sync.WaitGroup
			for i := range clients {
				conn := w.dial(t)
				running.Go(func() {
					defer conn.Close()
					if err := converse(conn, someCalls(i), i%2 == 0); err != nil {
						t.Errorf("client %d: %v", i, err)
					}
				})
			}
			running.Wait()
			eventually(t, "the pairs end", func() bool { return w.Stats().Conns == 0 })
			if sessions := g.confirms.Load(); sessions != clients*8 || len(g.owners) != clients*8 {
				t.Errorf("%d sessions confirmed, %d owners introduced, want %d", sessions, len(g.owners), clients*8)
			}
		})
	}
}

// converse sends all calls without waiting, in odd pieces if asked, and expects the answers in
// order.
func converse(conn *net.TCPConn, calls [][]byte, odd bool) error {
	sent := make(chan error, 1)
	go func() {
		all := bytes.Join(calls, nil)
		size := len(all)
		if odd {
			size = 99_991
		}
		for len(all) > 0 {
			n := min(size, len(all))
			if _, err := conn.Write(all[:n]); err != nil {
				sent <- err
				return
			}
			all = all[n:]
		}
		sent <- conn.CloseWrite()
	}()
	for i, record := range calls {
		call := oncrpctest.Split(record)[0].Message
		got, err := message(conn)
		if err != nil {
			return fmt.Errorf("answer %d: %w", i, err)
		}
		if hash := sha256.Sum256(call); !bytes.Equal(got[:4], call[:4]) || !bytes.Equal(got[8:40], hash[:]) || len(got) != 40+int(call[len(call)-1])*64<<10 {
			return fmt.Errorf("answer %d of %d bytes is to something else", i, len(got))
		}
	}
	return <-sent
}

func TestCallsThatComeByteForByteArriveWhole(t *testing.T) {
	a, g := serve(t, "a", nil), opened()
	w := guard(t, a, g)
	client, upstream := w.dial(t), a.next(t)
	_ = client.SetNoDelay(true)
	text := exchangeID(1, "host-a") + string(oncrpctest.Fragments([]byte(createSession(2)[4:]), 3))
	for i := range text {
		send(t, client, text[i:i+1])
	}
	send(t, client, write(3, 10))
	expect(t, upstream, text)
	expectNothing(t, upstream)
	answer := reply(1, 10) + string(oncrpctest.Fragments([]byte(reply(2, 100)[4:]), 3))
	for i := range answer {
		send(t, upstream, answer[i:i+1])
	}
	expect(t, client, answer)
	expect(t, upstream, write(3, 10))
}

func TestMemoryIsBoundedWithAGateAndASlowReaderBehind(t *testing.T) {
	target := serve(t, "a", nil)
	w := guard(t, target, opened())
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	chunk := []byte(write(1, 16<<20))
	for range 20 {
		client := w.dial(t)
		target.next(t) // which never reads
		_ = client.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		_, _ = client.Write(chunk)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 20*(256<<10)+20<<20 {
		t.Errorf("20 stalled clients take %d KiB", grown>>10)
	}
	runtime.KeepAlive(chunk)
}
