package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// shelf keeps listeners as the parent does.
type shelf struct {
	mu        sync.Mutex // guards the following fields
	listeners map[string]net.Listener
	refuse    error
}

var _ driver.Listeners = (*shelf)(nil)

func (s *shelf) Listener(name string) net.Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	listener := s.listeners[name]
	delete(s.listeners, name)
	return listener
}

func (s *shelf) Keep(name string, listener net.Listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	defer file.Close()
	if s.listeners == nil {
		s.listeners = map[string]net.Listener{}
	}
	s.listeners[name], err = net.FileListener(file)
	return err
}

func (s *shelf) Drop(name string) error {
	if listener := s.Listener(name); listener != nil {
		return listener.Close()
	}
	return nil
}

func (s *shelf) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.listeners))
}

// lines is a log that tests read.
type lines struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) logger() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(l)
	return log
}

// freeAddress is one on loopback that nobody has, nor gets by chance: what listens on a port of the system's
// choice does so on 127.0.0.1.
func freeAddress(t *testing.T) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.13:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

func fetched(t *testing.T, addr netip.AddrPort) (string, error) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + addr.String() + "/")
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

// running serves EFS_HTTP until the result is called.
func running(t *testing.T, addr netip.AddrPort, kept driver.Listeners, pages http.Handler, log *logrus.Logger) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() { serveHTTP(ctx, addr, kept, pages, log) })
	stop = sync.OnceFunc(func() {
		cancel()
		serving.Wait()
	})
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

func TestNobodyIsRefusedBetweenTwoWorkers(t *testing.T) {
	addr, kept := freeAddress(t), &shelf{}
	stop := running(t, addr, kept, says("first"), new(lines).logger())
	eventually(t, "the first worker answers", func() bool {
		text, _ := fetched(t, addr)
		return text == "first"
	})
	stop() // without a word to the parent, as in a crash
	asked := make(chan string)
	go func() {
		text, err := fetched(t, addr)
		if err != nil {
			text = err.Error()
		}
		asked <- text
	}()
	select {
	case text := <-asked:
		t.Fatalf("nobody serves, and the answer is %q", text)
	case <-time.After(50 * time.Millisecond):
	}
	running(t, addr, kept, says("second"), new(lines).logger())
	if text := <-asked; text != "second" {
		t.Errorf("who asked in between got %q", text)
	}
}

func TestAnAddressThatIsTakenIsToldOnceAndTriedAgain(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := taken.Addr().(*net.TCPAddr).AddrPort()
	log := &lines{}
	running(t, addr, &shelf{}, says("here"), log.logger())
	eventually(t, "the log tells", func() bool { return strings.Contains(log.String(), "another process has this port") })
	taken.Close()
	eventually(t, "it answers when the port is free", func() bool {
		text, _ := fetched(t, addr)
		return text == "here"
	})
	if n := strings.Count(log.String(), "EFS_HTTP="); n != 1 {
		t.Errorf("it was told %d times:\n%s", n, log)
	}
}

func TestTheLogSaysWhatIsOpenToOthers(t *testing.T) {
	for addr, warned := range map[string]bool{
		"127.0.0.1:9100": false, "127.8.9.1:9100": false, "[::1]:9100": false,
		"0.0.0.0:9100": true, "[::]:9100": true, "192.0.2.1:9100": true, "[::ffff:127.0.0.1]:9100": false,
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			log := &lines{}
			go serveHTTP(ctx, netip.MustParseAddrPort(addr), brokenShelf{}, says(""), log.logger())
			time.Sleep(time.Minute)
			cancel()
			synctest.Wait()
			if got := strings.Contains(log.String(), "there is no password"); got != warned {
				t.Errorf("EFS_HTTP=%s: the log says\n%s", addr, log)
			}
		})
	}
}

func TestWhatFailsForLongIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		log := &lines{}
		go serveHTTP(ctx, netip.MustParseAddrPort("127.0.0.1:0"), &shelf{refuse: errors.New("the parent is busy")}, says(""), log.logger())
		time.Sleep(time.Hour)
		cancel()
		synctest.Wait()
		if n := strings.Count(log.String(), "the parent is busy"); n != 1 {
			t.Errorf("in an hour it was told %d times:\n%s", n, log)
		}
	})
}

// noDevice is a listener that accepts nothing; brokenShelf has only that.
type (
	noDevice    struct{}
	brokenShelf struct{}
)

func (brokenShelf) Listener(string) net.Listener    { return noDevice{} }
func (brokenShelf) Keep(string, net.Listener) error { return nil }
func (brokenShelf) Drop(string) error               { return nil }

func (noDevice) Accept() (net.Conn, error) { return nil, errors.New("no such device") }
func (noDevice) Close() error              { return nil }
func (noDevice) Addr() net.Addr            { return &net.TCPAddr{} }

func TestAListenerIsKeptOrNotServed(t *testing.T) {
	addr, kept := freeAddress(t), &shelf{}
	broken, err := listenHTTP(addr, kept)
	if err != nil {
		t.Fatal(err)
	}
	defer broken.Close()
	if names := kept.names(); len(names) != 1 || !strings.Contains(names[0], addr.String()) {
		t.Fatalf("kept are %v", names)
	}
	if err := kept.Drop(httpName(addr)); err != nil {
		t.Fatal(err)
	}
	kept.refuse = errors.New("the parent is busy")
	broken.Close()
	if _, err := listenHTTP(addr, kept); err == nil {
		t.Error("a listener that nobody keeps is served: a crash would end it")
	}
	kept.refuse = nil
	again, err := listenHTTP(addr, kept)
	if err != nil {
		t.Fatalf("what was not kept was not closed: %v", err)
	}
	again.Close()
	_ = kept.Drop(httpName(addr))
}
