package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// The tests of this file are named after the rules of Docker's engine that
// concern this package: 1, 2, 3, 4, 5, 7, 8, 9 (log_test.go) and 11
// (settings_test.go). Rules 10 and 16 are in manifest_test.go and those of the
// driver in its package; integration has all of them on real engines.

func TestRule1GetNeverDeniesAVolumeThatExists(t *testing.T) {
	created := time.Date(2026, 2, 3, 4, 5, 6, 789, time.FixedZone("", 3600))
	type status = map[string]any
	for what, row := range map[string]struct {
		info driver.Info
		want string
	}{
		"all is known": {
			driver.Info{Name: "data", Mountpoint: "/mnt/efs/volumes/data", Created: created, Status: status{"trouble": []string{"dead"}}},
			`{"Volume":{"Name":"data","Mountpoint":"/mnt/efs/volumes/data","CreatedAt":"2026-02-03T03:05:06Z","Status":{"trouble":["dead"]}}}`,
		},
		"the time of creation is not known": {
			driver.Info{Name: "data", Mountpoint: "/m"},
			`{"Volume":{"Name":"data","Mountpoint":"/m"}}`,
		},
		"the time of creation is too late for RFC 3339": {
			driver.Info{Name: "data", Mountpoint: "/m", Created: time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -7200))},
			`{"Volume":{"Name":"data","Mountpoint":"/m"}}`,
		},
		"the time of creation is too early for RFC 3339": {
			driver.Info{Name: "data", Mountpoint: "/m", Created: time.Date(0, 1, 1, 0, 0, 0, 0, time.FixedZone("", 7200))},
			`{"Volume":{"Name":"data","Mountpoint":"/m"}}`,
		},
	} {
		t.Run(what, func(t *testing.T) {
			e := newEngine(t, &fakeVolumes{get: func(context.Context, string) (driver.Info, error) { return row.info, nil }})
			e.mustAnswer("Get", `{"Name":"data"}`, http.StatusOK, row.want)
			_, answer, _ := e.ask(t.Context(), "Get", `{"Name":"data"}`)
			// What the engine decodes it into.
			var decoded struct {
				Volume *struct {
					Name      string
					CreatedAt time.Time
				}
			}
			if err := json.Unmarshal([]byte(answer), &decoded); err != nil || decoded.Volume == nil || decoded.Volume.Name != "data" {
				t.Errorf("the engine reads %+v, %v from %s", decoded, err, answer)
			}
		})
	}
}

// Only "there is no such volume" may be said. Of anything else the engine must
// hear nothing, which it takes for trouble with the plugin.
func TestRule1GetAnswersNoOtherErrorThanNotFound(t *testing.T) {
	for what, get := range map[string]func(context.Context, string) (driver.Info, error){
		"a defect": func(context.Context, string) (driver.Info, error) { panic("defect") },
		"an unexpected error": func(context.Context, string) (driver.Info, error) {
			return driver.Info{}, errors.New("disk on fire")
		},
		"a dead file system": func(context.Context, string) (driver.Info, error) {
			return driver.Info{}, &driver.Error{Kind: driver.Unavailable, Err: io.EOF}
		},
		"a Status that is not JSON": func(_ context.Context, name string) (driver.Info, error) {
			return driver.Info{Name: name, Status: map[string]any{"size": math.Inf(1)}}, nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			newEngine(t, &fakeVolumes{get: get}).mustDrop("Get", `{"Name":"data"}`)
		})
	}
	e := newEngine(t, &fakeVolumes{get: func(_ context.Context, name string) (driver.Info, error) { return driver.Info{}, notFound(name) }})
	if got := e.mustFail("Get", `{"Name":"data"}`); !strings.Contains(got, `"data": no such volume`) {
		t.Errorf("an unknown volume: %s", got)
	}
}

func TestRule2EveryCallIsAnsweredWithin25Seconds(t *testing.T) {
	for _, call := range allCalls {
		if call.name == "Unmount" || call.name == "Capabilities" {
			continue // they wait for nothing: see Volumes
		}
		t.Run(call.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newBubbleEngine(t, failing(func(ctx context.Context) error {
					<-ctx.Done()
					return ctx.Err()
				}))
				start := time.Now()
				status, answer, err := e.ask(t.Context(), call.name, call.body)
				if took := time.Since(start); took != 25*time.Second {
					t.Errorf("it ended after %v", took)
				}
				switch call.name {
				case "Get", "Path": // rule 1: rather nothing than an error
					if err == nil {
						t.Errorf("answered %d %s", status, answer)
					}
				case "List":
					if err != nil || status != http.StatusOK {
						t.Errorf("got %d %s, %v", status, answer, err)
					}
				default:
					if err != nil || status != http.StatusInternalServerError || !strings.Contains(answer, "deadline exceeded") {
						t.Errorf("got %d %s, %v", status, answer, err)
					}
				}
			})
		})
	}
}

func TestRule3EmptyBodyIsNeverAnswered(t *testing.T) {
	reached := func(context.Context) error {
		t.Error("a call with an empty body reached the driver")
		return nil
	}
	e := newEngine(t, failing(reached))
	for _, call := range allCalls {
		t.Run(call.name, func(t *testing.T) {
			e.mustDrop(call.name, "")
			e.mustDrop(call.name, "\n")
			// The engine's own client, and a body that breaks off.
			if status, answer, err := e.ask(t.Context(), call.name, ""); err == nil {
				t.Errorf("answered %d %s", status, answer)
			}
			if answer := e.raw(call.name, call.body, 100); answer != "" {
				t.Errorf("half a request was answered: %s", answer)
			}
		})
	}
	if t.Failed() {
		return
	}
	for _, line := range e.lines(4 * len(allCalls)) {
		if line.Data["call"] == nil || line.Data["outcome"] == "ok" {
			t.Errorf("log line %v %v", line.Message, line.Data)
		}
	}
}

// Where the server notices the broken connection late, the call itself has to.
func TestRule3HalfABodyIsNoRequest(t *testing.T) {
	body := io.MultiReader(strings.NewReader(`{"Name":"data"}`), iotest.ErrReader(io.ErrUnexpectedEOF))
	err := new(call).read(&http.Request{Body: io.NopCloser(body)})
	if !mustDrop("Mount", err) {
		t.Errorf("error %v is answered", err)
	}
}

// docker cp mounts again with the running container's own ID: the driver counts,
// so each call has to reach it, with its ID.
func TestRule4EachMountOfAnIDReachesTheDriver(t *testing.T) {
	var count atomic.Int32
	e := newEngine(t, &fakeVolumes{
		mount: func(_ context.Context, name, id string, deliver func(string) error) error {
			if name == "data" && id == "container" {
				count.Add(1)
			}
			return deliver("/mnt/efs/volumes/" + name)
		},
		unmount: func(name, id string) error {
			if name == "data" && id == "container" {
				count.Add(-1)
			}
			return nil
		},
	})
	for _, call := range []string{"Mount", "Mount", "Unmount"} {
		want := `{}`
		if call == "Mount" {
			want = `{"Mountpoint":"/mnt/efs/volumes/data"}`
		}
		e.mustAnswer(call, `{"Name":"data","ID":"container"}`, http.StatusOK, want)
	}
	if got := count.Load(); got != 1 {
		t.Errorf("the driver counted %d", got)
	}
}

func TestRule5CallsEndWhenTheEngineGivesUp(t *testing.T) {
	for _, call := range allCalls {
		if call.name == "Unmount" || call.name == "Capabilities" {
			continue
		}
		t.Run(call.name, func(t *testing.T) {
			began, ended := make(chan struct{}), make(chan error, 1)
			e := newEngine(t, failing(func(ctx context.Context) error {
				close(began)
				<-ctx.Done()
				ended <- ctx.Err()
				return ctx.Err()
			}))
			ctx, giveUp := context.WithCancel(t.Context())
			go func() {
				<-began
				giveUp()
			}()
			if status, answer, err := e.ask(ctx, call.name, call.body); err == nil {
				t.Errorf("answered %d %s", status, answer)
			}
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the driver's context ended with %v", err)
				}
			case <-time.After(30 * time.Second):
				t.Error("the driver's context goes on")
			}
		})
	}
}

// An engine that has gone away gets no answer into an empty house: not even the
// "200" that net/http sends for a handler that just returns.
func TestRule5GivenUpCallsAreNotAnswered(t *testing.T) {
	e := newEngine(t, failing(func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}))
	for _, call := range []string{"Create", "Mount", "Get"} {
		conn, err := net.Dial("unix", e.socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(conn, "POST /VolumeDriver.%s HTTP/1.1\r\nHost: plugin\r\nContent-Length: 15\r\n\r\n{\"Name\":\"data\"}", call)
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(conn); err != nil || len(answer) > 0 {
			t.Errorf("%s: answered %q, %v", call, answer, err)
		}
		conn.Close()
	}
}

// The engine sends no Unmount for a Mount that it gave up on. Either the
// driver sees the context end, or deliver tells it that the answer did not leave.
func TestRule5DeliverFailsWhenTheAnswerDoesNotLeave(t *testing.T) {
	began, gone := make(chan struct{}), make(chan struct{})
	delivered := make(chan error, 1)
	e := newEngine(t, &fakeVolumes{mount: func(ctx context.Context, name, _ string, deliver func(string) error) error {
		close(began)
		<-gone
		<-ctx.Done() // the driver of this test does not look
		err := deliver("/mnt/efs/volumes/" + name)
		delivered <- err
		return err
	}})
	ctx, giveUp := context.WithCancel(t.Context())
	go func() {
		<-began
		giveUp()
		close(gone)
	}()
	if status, answer, err := e.ask(ctx, "Mount", `{"Name":"data","ID":"b87d"}`); err == nil {
		t.Errorf("answered %d %s", status, answer)
	}
	if err := <-delivered; err == nil {
		t.Error("deliver tells the driver that the engine has its answer")
	}
	if line := e.lines(1)[0]; line.Data["outcome"] == "ok" {
		t.Errorf("the log says %v", line.Data)
	}
}

// And the other way round: when deliver says that all is well, the engine has the
// whole answer, even if the call has work left.
func TestRule5AnswerHasLeftWhenDeliverReturns(t *testing.T) {
	answered := make(chan struct{})
	e := newEngine(t, &fakeVolumes{mount: func(_ context.Context, name, _ string, deliver func(string) error) error {
		err := deliver("/mnt/efs/volumes/" + name)
		<-answered
		return err
	}})
	conn, err := net.Dial("unix", e.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var once sync.Once
	release := func() { once.Do(func() { close(answered) }) }
	defer release()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = fmt.Fprint(conn, "POST /VolumeDriver.Mount HTTP/1.1\r\nHost: plugin\r\nContent-Length: 26\r\n\r\n{\"Name\":\"data\",\"ID\":\"b87\"}")
	var got []byte
	for buffer := make([]byte, 1024); !strings.Contains(string(got), `{"Mountpoint":"/mnt/efs/volumes/data"}`); {
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		got = append(got, buffer[:n]...)
	}
}

func TestRule7UnmountIsAnsweredAsTheDriverSays(t *testing.T) {
	e := newEngine(t, &fakeVolumes{})
	e.mustAnswer("Unmount", `{"Name":"unheard-of","ID":"unknown"}`, http.StatusOK, `{}`)
	e.mustAnswer("Remove", `{"Name":"unheard-of"}`, http.StatusOK, `{}`)
}

// Docker may ask as soon as the socket is there; the plugin reads its state
// after that.
func TestRule8CallsWaitInTheSocketUntilTheStateIsRead(t *testing.T) {
	listened := make(chan struct{})
	answers := make(chan error, 1)
	socket := t.TempDir() + "/s"
	go func() {
		<-listened
		conn, err := net.Dial("unix", socket)
		if err == nil {
			defer conn.Close()
			_, err = fmt.Fprint(conn, "POST /Plugin.Activate HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		}
		if err == nil {
			var answer []byte
			if answer, err = io.ReadAll(conn); err == nil && !strings.Contains(string(answer), manifest) {
				err = fmt.Errorf("answered %q", answer)
			}
		}
		answers <- err
	}()
	listener, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	close(listened)
	time.Sleep(20 * time.Millisecond) // the state is read
	e := &engine{t: t, socket: socket}
	e.serve(listener, nil, &fakeVolumes{}, nil)
	if err := <-answers; err != nil {
		t.Error(err)
	}
}

// newBubbleEngine is newEngine in a synctest bubble, where real sockets have no
// place.
func newBubbleEngine(t *testing.T, volumes Volumes) *engine {
	t.Helper()
	e := &engine{t: t}
	l := &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	e.serve(l, l.dial, volumes, nil)
	return e
}

// memoryListener is a listener whose connections are pipes.
type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *memoryListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }
