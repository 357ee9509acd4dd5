package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// fakeVolumes plays the driver. A call without a function of its own works and
// does nothing; each volume exists.
type fakeVolumes struct {
	create  func(ctx context.Context, name string, options map[string]string) error
	remove  func(ctx context.Context, name string) error
	mount   func(ctx context.Context, name, id string, deliver func(string) error) error
	unmount func(name, id string) error
	get     func(ctx context.Context, name string) (driver.Info, error)
	list    func(ctx context.Context) ([]driver.Summary, uint64)
	path    func(ctx context.Context, name string) (string, error)
}

var _ Volumes = (*fakeVolumes)(nil)

func (f *fakeVolumes) Create(ctx context.Context, name string, options map[string]string) error {
	if f.create == nil {
		return nil
	}
	return f.create(ctx, name, options)
}

func (f *fakeVolumes) Remove(ctx context.Context, name string) error {
	if f.remove == nil {
		return nil
	}
	return f.remove(ctx, name)
}

func (f *fakeVolumes) Mount(ctx context.Context, name, id string, deliver func(string) error) error {
	if f.mount == nil {
		return deliver("/mnt/efs/volumes/" + name)
	}
	return f.mount(ctx, name, id, deliver)
}

func (f *fakeVolumes) Unmount(name, id string) error {
	if f.unmount == nil {
		return nil
	}
	return f.unmount(name, id)
}

func (f *fakeVolumes) Get(ctx context.Context, name string) (driver.Info, error) {
	if f.get == nil {
		return driver.Info{Name: name, Mountpoint: "/mnt/efs/volumes/" + name}, nil
	}
	return f.get(ctx, name)
}

func (f *fakeVolumes) List(ctx context.Context) ([]driver.Summary, uint64) {
	if f.list == nil {
		return nil, 1
	}
	return f.list(ctx)
}

func (f *fakeVolumes) Mountpoint(ctx context.Context, name string) (string, error) {
	if f.path == nil {
		return "/mnt/efs/volumes/" + name, nil
	}
	return f.path(ctx, name)
}

// failing is a driver of which every call does what fail does.
func failing(fail func(ctx context.Context) error) *fakeVolumes {
	background := context.Background()
	return &fakeVolumes{
		create:  func(ctx context.Context, _ string, _ map[string]string) error { return fail(ctx) },
		remove:  func(ctx context.Context, _ string) error { return fail(ctx) },
		mount:   func(ctx context.Context, _, _ string, _ func(string) error) error { return fail(ctx) },
		unmount: func(_, _ string) error { return fail(background) },
		get:     func(ctx context.Context, _ string) (driver.Info, error) { return driver.Info{}, fail(ctx) },
		list: func(ctx context.Context) ([]driver.Summary, uint64) {
			_ = fail(ctx)
			return nil, 1
		},
		path: func(ctx context.Context, _ string) (string, error) { return "", fail(ctx) },
	}
}

// notFound is what the driver says of a volume that does not exist.
func notFound(name string) error {
	return &driver.Error{Op: "get", Volume: name, Kind: driver.NotFound, Err: errors.New("no such volume")}
}

// allCalls are the calls of the protocol, each with a request that is fine.
var allCalls = []struct{ name, body string }{
	{"Create", `{"Name":"data","Opts":{"uid":"999"}}`},
	{"Remove", `{"Name":"data"}`},
	{"Mount", `{"Name":"data","ID":"b87d"}`},
	{"Unmount", `{"Name":"data","ID":"b87d"}`},
	{"Get", `{"Name":"data"}`},
	{"List", `{}`},
	{"Path", `{"Name":"data"}`},
	{"Capabilities", `{}`},
}

// engine asks a server over a real Unix socket, as Docker does.
type engine struct {
	t      *testing.T
	server *Server
	socket string
	client *http.Client
	logged *logtest.Hook
}

// newEngine starts a server on a socket; change prepares it before.
func newEngine(t *testing.T, volumes Volumes, change ...func(*Server)) *engine {
	t.Helper()
	// A socket's path has little room, and t.TempDir's is long.
	e := &engine{t: t, socket: filepath.Join(t.TempDir(), "s")}
	listener, err := Listen(e.socket)
	if err != nil {
		t.Fatal(err)
	}
	e.serve(listener, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
	}, volumes, change)
	return e
}

func (e *engine) serve(listener net.Listener, dial func(context.Context) (net.Conn, error), volumes Volumes, change []func(*Server)) {
	logger, hook := logtest.NewNullLogger()
	logger.SetLevel(logrus.DebugLevel)
	e.server, e.logged = NewServer(volumes, logger), hook
	for _, f := range change {
		f(e.server)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	e.client = &http.Client{Transport: transport}
	served := make(chan error, 1)
	go func() { served <- e.server.Serve(listener) }()
	e.t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = listener.Close()
		if err := <-served; err != nil {
			e.t.Errorf("Serve returned %v after its listener was closed", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		e.server.Wait(ctx)
	})
}

// ask makes one call and returns the answer; an error means that there was none.
func (e *engine) ask(ctx context.Context, call, body string) (status int, answer string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/VolumeDriver."+call, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	// The engine does not repeat a call on a new connection by itself: Go's client
	// would, for a body that it can get again.
	request.GetBody = nil
	response, err := e.client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return response.StatusCode, strings.TrimSuffix(string(content), "\n"), err
}

// mustAnswer makes one call and fails the test unless it gets that answer.
func (e *engine) mustAnswer(call, body string, status int, want string) {
	e.t.Helper()
	got, answer, err := e.ask(e.t.Context(), call, body)
	if err != nil || got != status || answer != want {
		e.t.Errorf("%s %s: got %d %s, %v; want %d %s", call, body, got, answer, err, status, want)
	}
}

// mustFail makes one call and returns the error that it answers, of one line.
func (e *engine) mustFail(call, body string) string {
	e.t.Helper()
	status, answer, err := e.ask(e.t.Context(), call, body)
	var failure struct{ Err string }
	if err == nil {
		err = json.Unmarshal([]byte(answer), &failure)
	}
	if err != nil || status != http.StatusInternalServerError || failure.Err == "" || strings.ContainsAny(failure.Err, "\r\n") {
		e.t.Errorf("%s %.80s: got %d %q, %v; want 500 and an error of one line", call, body, status, answer, err)
	}
	return failure.Err
}

// mustDrop makes one call and fails the test if any byte of an answer comes.
func (e *engine) mustDrop(call, body string) {
	e.t.Helper()
	if answer := e.raw(call, body, 0); answer != "" {
		e.t.Errorf("%s with body %.80q was answered: %q", call, body, answer)
	}
}

// raw makes one call and returns all that comes back. If bytes are missing at
// the body's end, the request breaks off there, as when the engine is killed.
func (e *engine) raw(call, body string, missing int) string {
	e.t.Helper()
	conn, err := net.Dial("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		e.t.Fatal(err)
	}
	// A server that does not want the whole body closes, which the read shows.
	_, _ = fmt.Fprintf(conn, "POST /VolumeDriver.%s HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", call, len(body)+missing, body)
	if missing > 0 {
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			e.t.Fatal(err)
		}
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		e.t.Fatalf("%s: the connection was neither answered nor dropped: %v", call, err)
	}
	return string(answer)
}

// lines waits until there are n log lines, which come after the answer, and
// returns them; more are an error.
func (e *engine) lines(n int) []*logrus.Entry {
	e.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); len(e.logged.AllEntries()) < n && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	entries := e.logged.AllEntries()
	if len(entries) != n {
		e.t.Fatalf("%d log lines, want %d: %v", len(entries), n, messages(entries))
	}
	return entries
}

func messages(entries []*logrus.Entry) []string {
	var all []string
	for _, entry := range entries {
		all = append(all, entry.Message)
	}
	return all
}
