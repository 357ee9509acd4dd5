package batch

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// couple is a Conn and who is at its other end.
func couple(t *testing.T) (*Conn, *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialed, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = dialed.Close()
		_ = accepted.Close()
	})
	for _, conn := range []net.Conn{dialed, accepted} {
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	}
	conn, err := New(dialed.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	return conn, accepted.(*net.TCPConn)
}

func write(t *testing.T, to io.Writer, text string) {
	t.Helper()
	if n, err := io.WriteString(to, text); n != len(text) || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
}

func expect(t *testing.T, from io.Reader, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(from, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v; want %q", got, err, text)
	}
}

func TestWhatTheKernelHasIsReadAtOnceAndKeptInOrder(t *testing.T) {
	conn, other := couple(t)
	data := make([]byte, 3<<20)
	_, _ = rand.Read(data)
	var writing sync.WaitGroup
	writing.Go(func() {
		_, _ = other.Write(data)
		_ = other.CloseWrite()
	})
	var got bytes.Buffer
	for size := 1; ; size = size*2%70_001 + 1 { // pieces of all sizes
		piece := make([]byte, size)
		n, err := conn.Read(piece)
		got.Write(piece[:n])
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	writing.Wait()
	if !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d bytes came, of %d, or others", got.Len(), len(data))
	}
}

func TestAnEagerReaderGetsWhatIsInStoreAndNeverWaits(t *testing.T) {
	conn, other := couple(t)
	write(t, other, "ninebytes")
	expect(t, conn, "nine")
	conn.Eager(true)
	write(t, other, "more")
	expect(t, conn, "bytes")
	if n, err := conn.Read(make([]byte, 4)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d, %v", n, err)
	}
	conn.Eager(false)
	expect(t, conn, "more")
}

func TestAConnectionThatWaitsHasNoBuffer(t *testing.T) {
	conn, other := couple(t)
	write(t, other, "hello")
	expect(t, conn, "hello")
	if conn.in != nil {
		t.Error("there is one after all was read")
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || conn.in != nil {
		t.Errorf("after a deadline: %v, %t", err, conn.in != nil)
	}
	_ = conn.SetReadDeadline(time.Time{})
	write(t, other, "again")
	expect(t, conn, "again")
	conn.Cork()
	write(t, conn, "gathered")
	if err := conn.Flush(); err != nil || conn.out != nil {
		t.Errorf("after Flush: %v, %t", err, conn.out != nil)
	}
	_ = other.SetLinger(0)
	_ = other.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) || conn.in != nil {
		t.Errorf("after a reset: %v, %t", err, conn.in != nil)
	}
}

func TestWhatIsGatheredComesAtFlushAndInOrder(t *testing.T) {
	conn, other := couple(t)
	conn.Cork()
	write(t, conn, "one ")
	write(t, conn, "two ")
	_ = other.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := other.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("before Flush: %d, %v", n, err)
	}
	_ = other.SetReadDeadline(time.Now().Add(30 * time.Second))
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	write(t, conn, "three")
	expect(t, other, "one two three")
}

func TestMoreThanCanBeGatheredIsWrittenMeanwhile(t *testing.T) {
	conn, other := couple(t)
	data := make([]byte, 5*size+size/2)
	_, _ = rand.Read(data)
	var writing sync.WaitGroup
	writing.Go(func() {
		conn.Cork()
		rest := data
		for _, piece := range []int{1, size - 1, 1, size / 3, 2 * size, size, 7} {
			_, _ = conn.Write(rest[:piece])
			rest = rest[piece:]
		}
		_, _ = conn.Write(rest)
		if err := conn.Flush(); err != nil {
			t.Error(err)
		}
	})
	got := make([]byte, len(data))
	_, err := io.ReadFull(other, got)
	writing.Wait()
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("other bytes came, %v", err)
	}
}

func TestAFailedWriteIsToldByFlush(t *testing.T) {
	conn, _ := couple(t)
	conn.Cork()
	write(t, conn, "never sent")
	_ = conn.Close()
	if err := conn.Flush(); !errors.Is(err, net.ErrClosed) || conn.out != nil {
		t.Errorf("%v, %t", err, conn.out != nil)
	}
}
