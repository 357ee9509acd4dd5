package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// room is how many clients there can be, each of so many files, up to as many as are wanted. It skips
// nothing: where the limit of open files does not permit the least, what is tested is not there.
func room(t *testing.T, wanted, least, each int) int {
	t.Helper()
	const others = 500
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if needed := uint64(least*each + others); limit.Cur < needed {
		t.Fatalf("this test opens %d files or more, the limit is %d: raise it (ulimit -n)", needed, limit.Cur)
	}
	return int(min(uint64(wanted), (limit.Cur-others)/uint64(each)))
}

// pace talks now and then until it is stopped, and tells the longest answer.
func pace(t *testing.T, conn net.Conn) (stop func() time.Duration) {
	t.Helper()
	done := make(chan struct{})
	longest := make(chan time.Duration)
	go func() {
		var most time.Duration
		for {
			select {
			case <-done:
				longest <- most
				return
			case <-time.After(5 * time.Millisecond):
			}
			begun := time.Now()
			if err := talk(conn, "undisturbed"); err != nil {
				t.Errorf("who was connected: %v", err)
				<-done
				longest <- most
				return
			}
			most = max(most, time.Since(begun))
		}
	}()
	return func() time.Duration {
		close(done)
		return <-longest
	}
}

// crowd connects many clients at once, says nothing, and returns those that are still
// connected when all others have heard that they are not wanted: when nobody has heard it for a while.
func crowd(t *testing.T, addr string, count int) (stay []net.Conn, refused int) {
	t.Helper()
	const dialers = 100
	var mu sync.Mutex
	var next atomic.Int64
	var all []net.Conn
	var dialing sync.WaitGroup
	for d := range dialers {
		dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+d%50))}}
		dialing.Go(func() {
			for next.Add(1) <= int64(count) {
				conn, err := dialer.Dial("tcp", addr)
				mu.Lock()
				switch {
				case errors.Is(err, syscall.ECONNRESET):
					refused++
				case err != nil:
					t.Errorf("a client: %v", err)
				default:
					all = append(all, conn)
				}
				mu.Unlock()
			}
		})
	}
	dialing.Wait()
	const while = 2 * time.Second
	latest := time.Now()
	// heard tells whether a client's lot is known.
	heard := func(conn net.Conn) bool {
		_ = conn.SetReadDeadline(time.Now().Add(while))
		_, err := conn.Read(make([]byte, 1))
		mu.Lock()
		defer mu.Unlock()
		switch {
		case !errors.Is(err, os.ErrDeadlineExceeded):
			refused++
			latest = time.Now()
		case time.Since(latest) < while:
			return false
		default:
			_ = conn.SetReadDeadline(time.Time{})
			stay = append(stay, conn)
		}
		return true
	}
	var looking sync.WaitGroup
	for _, conn := range all {
		t.Cleanup(func() { _ = conn.Close() })
		looking.Go(func() {
			for !heard(conn) {
			}
		})
	}
	looking.Wait()
	return stay, refused
}

func TestRelayShedsTenThousandConnectionsAtOnce(t *testing.T) {
	const limit = 300
	count := room(t, 10_000, 2_000, 1)
	p := runRelay(t, "--listen=127.0.0.1:0", "--allow=127.0.0.0/8", "--target=a="+nfsServer(t), fmt.Sprintf("--max-connections=%d", limit))
	addr := p.addr()
	client := connect(t, addr)
	mustTalk(t, client, "hello")
	stop := pace(t, client)
	begun := time.Now()
	stay, refused := crowd(t, addr, count)
	took := time.Since(begun)
	longest := stop()
	t.Logf("%d stay, %d were refused, within %v; the longest answer to who was there took %v", len(stay), refused, took, longest)
	if len(stay) != limit-1 || refused != count-limit+1 {
		t.Errorf("%d stay and %d are refused, want %d and %d", len(stay), refused, limit-1, count-limit+1)
	}
	if took > 2*patience || longest > patience/3 {
		t.Errorf("it took %v, the longest answer %v", took, longest)
	}
	if n := strings.Count(p.log(), "300 clients are connected, which is the limit"); n < 1 || n > 3 {
		t.Errorf("%d lines tell of it", n)
	}
	for _, conn := range stay {
		_ = conn.Close()
	}
	eventually(t, "there is room again", func() bool { return talk(connect(t, addr), "hello again") == nil })
}

// rss is what a process has in memory.
func rss(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	var kilobytes int
	if _, err := fmt.Sscan(after, &kilobytes); err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}

func TestRelayKeepsWhoSaysNothingForLittle(t *testing.T) {
	count := room(t, 2000, 500, 6) // the gateway counts on 6 files of each
	p := runRelay(t, "--listen=127.0.0.1:0", "--allow=127.0.0.0/8", "--target=a="+nfsServer(t))
	addr := p.addr()
	mustTalk(t, connect(t, addr), "hello")
	worker := p.worker()
	before := rss(t, worker)
	stay, _ := crowd(t, addr, count)
	if len(stay) != count {
		t.Fatalf("%d of %d are connected", len(stay), count)
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", worker))
	if err != nil {
		t.Fatal(err)
	}
	each := (rss(t, worker) - before) / count
	t.Logf("%d clients that said nothing take %d bytes and %d descriptors", count, each, len(files))
	if len(files) > count+100 {
		t.Error("they have connections to the mount target")
	}
	if each > 30_000 && !raceDetector {
		t.Errorf("each takes %d bytes", each)
	}
	for _, conn := range stay[:100] {
		_ = conn.SetDeadline(time.Now().Add(patience))
		mustTalk(t, conn, "at last")
	}
}

func TestRelayWithFewDescriptorsServesFewAndTells(t *testing.T) {
	const files = 200
	const clients = (files - 64) / 6
	p := launch(t, fmt.Sprintf(`ulimit -n %d; exec "$@"`, files), nil, nil,
		"relay", "--listen=127.0.0.1:0", "--allow=127.0.0.0/8", "--target=a="+nfsServer(t))
	addr := p.addr()
	p.line(fmt.Sprintf("the limit of %d open files has room for (%d) connections, not 10000", files, clients))
	client := connect(t, addr)
	mustTalk(t, client, "hello")
	stop := pace(t, client)
	stay, refused := crowd(t, addr, 1000)
	if longest := stop(); longest > patience/3 {
		t.Errorf("the longest answer to who was there took %v", longest)
	}
	if len(stay) != clients-1 || refused != 1000-clients+1 {
		t.Errorf("%d stay, %d were refused", len(stay), refused)
	}
	var talking sync.WaitGroup
	for _, conn := range stay {
		_ = conn.SetDeadline(time.Now().Add(patience))
		talking.Go(func() {
			if err := talk(conn, strings.Repeat("bytes that flow ", 10_000)); err != nil {
				t.Error(err)
			}
		})
	}
	talking.Wait()
	p.line("(which is the limit)")
	if strings.Contains(p.log(), "too many open files") {
		t.Error("it ran out of descriptors")
	}
}

func TestRelayEndsSlowHandshakes(t *testing.T) {
	dir := t.TempDir()
	recipe(t, dir)
	p := runRelay(t, "--peer-listen=127.0.0.1:0", "--target=a="+nfsServer(t),
		"--cert="+filepath.Join(dir, "aws.pem"), "--key="+filepath.Join(dir, "aws.key"), "--peer-ca="+filepath.Join(dir, "ca.pem"))
	addr := p.line(`listening for peer gateways on (\S+)"`)
	begun := time.Now()
	conn := connect(t, addr)
	if _, err := io.WriteString(conn, "\x16\x03\x01"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn)
	if took := time.Since(begun); took < time.Second || took > 10*time.Second {
		t.Errorf("it was there for %v", took)
	}
	p.line("TLS handshake: context (deadline exceeded)")
}
