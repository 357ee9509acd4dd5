package web_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/web"
)

// pipes is a listener in memory: with it the time limits pass at once.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (*pipes) Addr() net.Addr { return &net.TCPAddr{} }

// connect is nil if nobody accepts.
func (p *pipes) connect() net.Conn {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours
	case <-time.After(time.Millisecond):
		return nil
	}
}

// served serves in a bubble, and ends that.
func served(t *testing.T, h http.Handler, test func(t *testing.T, p *pipes, end context.CancelFunc, ended <-chan error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		p, ended, gone := newPipes(), make(chan error, 1), make(chan struct{})
		go func() {
			defer close(gone)
			ended <- web.Serve(ctx, p, h)
		}()
		test(t, p, end, ended)
		end()
		<-gone
		time.Sleep(time.Minute) // a handler that was given up ends too
	})
}

// cutOff is what comes on a connection, and how long that lasts.
func cutOff(conn net.Conn) (string, time.Duration) {
	begun := time.Now()
	text, _ := io.ReadAll(conn)
	return string(text), time.Since(begun)
}

func TestWhoIsSlowIsCutOff(t *testing.T) {
	for _, row := range []struct {
		name, sends string
		after       time.Duration
		says        string
	}{
		{"says nothing", "", 5 * time.Second, ""},
		{"does not finish its question", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ", 5 * time.Second, ""},
		{"announces more than it sends", "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", 10 * time.Second, "200 OK"},
		{"stays and asks nothing more", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 60 * time.Second, "200 OK"},
		{"sends too much", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Much: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", 0, "431 "},
	} {
		t.Run(row.name, func(t *testing.T) {
			served(t, of(status.Snapshot{}), func(t *testing.T, p *pipes, _ context.CancelFunc, _ <-chan error) {
				conn := p.connect()
				defer conn.Close()
				go func() { _, _ = io.WriteString(conn, row.sends) }()
				text, took := cutOff(conn)
				if took < row.after || took > row.after+time.Second {
					t.Errorf("it was there for %v, want %v", took, row.after)
				}
				if !strings.Contains(text, row.says) {
					t.Errorf("it was answered %q, want %q", text, row.says)
				}
			})
		})
	}
}

func TestWhoDoesNotReadIsCutOff(t *testing.T) {
	served(t, of(filled(time.Now())), func(t *testing.T, p *pipes, _ context.CancelFunc, _ <-chan error) {
		conn := p.connect()
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		time.Sleep(31 * time.Second)
		if text, err := io.ReadAll(conn); err == nil && strings.Contains(string(text), "</html>") {
			t.Error("it was waited for")
		}
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	served(t, of(status.Snapshot{}), func(t *testing.T, p *pipes, _ context.CancelFunc, _ <-chan error) {
		var conns []net.Conn
		for range 200 {
			conn := p.connect()
			if conn == nil {
				break
			}
			defer conn.Close()
			conns = append(conns, conn)
		}
		if len(conns) != 64 {
			t.Fatalf("%d connections were accepted, want 64", len(conns))
		}
		conns[0].Close()
		synctest.Wait()
		conn := p.connect()
		if conn == nil {
			t.Fatal("the place of one that has left is not given to the next")
		}
		defer conn.Close()
	})
}

func TestTheEndWaitsForAnswersAndNotForThoseWhoStay(t *testing.T) {
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/never" {
			time.Sleep(30 * time.Second)
			return
		}
		time.Sleep(time.Second)
		_, _ = io.WriteString(w, "whole")
	})
	served(t, slow, func(t *testing.T, p *pipes, end context.CancelFunc, ended <-chan error) {
		asking, never, idle := p.connect(), p.connect(), p.connect()
		defer idle.Close()
		defer never.Close()
		_, _ = io.WriteString(asking, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		_, _ = io.WriteString(never, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
		synctest.Wait()
		end()
		begun := time.Now()
		answer, err := http.ReadResponse(bufio.NewReader(asking), nil)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(answer.Body); err != nil || string(text) != "whole" {
			t.Errorf("an answer under way came as %q, %v", text, err)
		}
		asking.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("the end took %v", took)
		}
		if _, took := cutOff(never); took > time.Second {
			t.Errorf("who is not answered is left with the connection for %v", took)
		}
		if p.connect() != nil {
			t.Error("after the end one is accepted")
		}
	})
}

type failing struct{ pipes }

func (*failing) Accept() (net.Conn, error) { return nil, errors.New("no such device") }

func TestAListenerThatFailsIsAnError(t *testing.T) {
	p := &failing{*newPipes()}
	if err := web.Serve(t.Context(), p, of(status.Snapshot{})); err == nil || !strings.Contains(err.Error(), "no such device") {
		t.Errorf("the end was %v", err)
	}
}

func TestServeOnLoopback(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(ctx, listener, of(filled(time.Now()))) }()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
	answer, err := client.Get("http://" + listener.Addr().String() + "/status.json")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("answered %s", answer.Status)
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	client.CloseIdleConnections()
}
