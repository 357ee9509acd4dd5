package relay_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc/oncrpctest"
)

// dismissal is what a client hears that has sent a record.
func dismissal(t testing.TB, record string) string {
	t.Helper()
	head, err := oncrpc.ReadHead([]byte(record))
	if err != nil {
		t.Fatal(err)
	}
	return string(head.Dismissal())
}

// dismissing makes a relay with a client that waits for a gate, and a gate that will never open again.
func dismissing(t testing.TB) (w *world, client *net.TCPConn) {
	t.Helper()
	g := shut()
	w = guard(t, serve(t, "a", nil), g)
	client = w.dial(t)
	eventually(t, "it is held", func() bool { return w.Stats().Held == 1 })
	g.set(false, errors.New("host-b has the lease"))
	eventually(t, "it is dismissed", func() bool { return w.Stats().Held == 0 })
	return w, client
}

func TestAGateThatNeverOpensAgainDismissesTheClientAndSaysWhy(t *testing.T) {
	w, held := dismissing(t)
	inFragments := string(oncrpctest.Fragments(oncrpctest.NewCall(5, oncrpctest.Sequence, make([]byte, 100_000)).Message(), 77))
	for name, client := range map[string]*net.TCPConn{"held": held, "new": w.dial(t)} {
		t.Run(name, func(t *testing.T) {
			for _, record := range []string{write(1, 10), write(2, 1<<20), createSession(3), exchangeID(4, "host-a"), inFragments} {
				send(t, client, record)
				expect(t, client, dismissal(t, record))
			}
			// Several at once, then one in pieces.
			send(t, client, write(6, 10)+write(7, 10)+reply(8, 5000)+createSession(9))
			expect(t, client, dismissal(t, write(6, 10))+dismissal(t, write(7, 10))+dismissal(t, createSession(9)))
			for _, piece := range strings.SplitAfter(write(10, 100), "host-") {
				send(t, client, piece)
				time.Sleep(5 * time.Millisecond)
			}
			expect(t, client, dismissal(t, write(10, 100)))
		})
	}
	if log := w.log.String(); !strings.Contains(log, "client 127.0.0.1:") || !strings.Contains(log, "gets nothing but errors from now on: host-b has the lease") {
		t.Error(log)
	}
	w.group.read(func(group *group) {
		if group.asked != 0 {
			t.Error("a connection to the mount target was sought")
		}
	})
}

func TestADismissedClientThatIsNoneOfNFSIsReset(t *testing.T) {
	w, client := dismissing(t)
	send(t, client, write(1, 10)+"GET / HTTP/1.1\r\nHost: a mount target of some file system\r\n\r\n")
	expect(t, client, dismissal(t, write(1, 10)))
	expectReset(t, client)
	if log := w.log.String(); !strings.Contains(log, "not a message of an NFSv4.1 client") {
		t.Error(log)
	}
}

func TestADismissedClientThatGoesIsForgotten(t *testing.T) {
	w, client := dismissing(t)
	send(t, client, write(1, 1000)[:500])
	_ = client.Close()
	eventually(t, "it is gone", func() bool { return w.Stats().Conns == 0 })
}

// Shutdown is called by the end of the test, and must not wait for it.
func TestADismissedClientThatReadsNothingIsLeftAlone(t *testing.T) {
	_, client := dismissing(t)
	_ = client.SetReadBuffer(4 << 10)
	_ = client.SetWriteDeadline(time.Now().Add(5 * time.Second))
	calls := strings.Repeat(write(1, 10), 1000)
	for {
		if _, err := io.WriteString(client, calls); err != nil {
			break // all buffers are full
		}
	}
}
