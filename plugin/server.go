package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker/go-plugins-helpers/sdk"
	"github.com/docker/go-plugins-helpers/volume"
	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

const (
	// manifest is what Plugin.Activate answers
	// (docs.docker.com/engine/extend/plugin_api/#pluginactivate).
	manifest = `{"Implements": ["VolumeDriver"]}`
	// budget is what a call may take: docker plugin enable sets a limit of 30 s
	// over all calls, and the error has to arrive before it.
	budget = 25 * time.Second
	// maxBody is far above what any request needs.
	maxBody = 1 << 20
)

// Volumes is what the protocol asks for; [driver.Driver] has it.
type Volumes interface {
	Create(ctx context.Context, name string, options map[string]string) error
	Remove(ctx context.Context, name string) error
	Mount(ctx context.Context, name, id string, deliver func(mountpoint string) error) error
	Unmount(name, id string) error
	Get(ctx context.Context, name string) (driver.Info, error)
	List(ctx context.Context) (volumes []driver.Summary, generation uint64)
	Mountpoint(ctx context.Context, name string) (string, error)
}

var _ Volumes = (*driver.Driver)(nil)

// Server answers Docker's calls. Make one with [NewServer].
type Server struct {
	handler sdk.Handler
	volumes Volumes
	log     logrus.FieldLogger
	budget  time.Duration
	calls   calls
	list    listAnswer
}

// NewServer makes a server. The volumes stay the caller's.
func NewServer(volumes Volumes, log logrus.FieldLogger) *Server {
	s := &Server{handler: sdk.NewHandler(manifest), volumes: volumes, log: log, budget: budget}
	s.routes()
	return s
}

// Serve answers calls until the listener is closed, and returns nil then.
func (s *Server) Serve(listener net.Listener) error {
	if err := s.handler.Serve(listener); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Wait waits for calls under way, no longer than the context. Calls that come
// afterwards on connections that are still open are dropped: whoever waits is
// about to close the volumes.
func (s *Server) Wait(ctx context.Context) {
	select {
	case <-s.calls.end():
	case <-ctx.Done():
	}
}

// calls counts calls under way. The zero value works.
type calls struct {
	mu       sync.Mutex // guards the following fields
	underWay int
	ended    chan struct{} // set by end; closed when the last call is done
}

// begin counts a call; false means that none may begin any more.
func (c *calls) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return false
	}
	c.underWay++
	return true
}

func (c *calls) done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.underWay--; c.underWay == 0 && c.ended != nil {
		close(c.ended)
	}
}

// end lets no further call begin and tells when the last one is done.
func (c *calls) end() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = make(chan struct{})
		if c.underWay == 0 {
			close(c.ended)
		}
	}
	return c.ended
}

// Listen listens on a Unix socket that only root may use. A socket that a crash
// left is replaced; one that somebody serves, or what is no socket, is not.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), listener.Close())
	}
	return listener, nil
}

// removeStale removes a socket that nobody serves. A refused connection is the
// only proof of that: a busy server's queue may be full.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there and is not a socket: move it away, or give another --socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s is served by another process: stop that one first, or give another --socket", path)
	}
	return os.Remove(path)
}

// request is what calls carry; each uses some of it.
type request struct {
	Name string
	ID   string
	Opts map[string]string
}

// call is one request on its way.
type call struct {
	request
	http.ResponseWriter
	answered bool // or tried to: nothing may follow
}

// answer sends a response and returns an error if it did not leave.
func (c *call) answer(response any) error {
	encoded, ok := response.([]byte)
	if !ok {
		var err error
		if encoded, err = json.Marshal(response); err != nil {
			return err
		}
	}
	c.answered = true
	c.Header().Set("Content-Type", sdk.DefaultContentTypeV1_1)
	if _, err := c.Write(encoded); err != nil {
		return err
	}
	return http.NewResponseController(c.ResponseWriter).Flush()
}

// fails sends an error as Docker understands it, in one line.
func (c *call) fails(err error) {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	sdk.EncodeResponse(c, volume.NewErrorResponse(text), true)
}

var (
	// errEmpty marks what the engine sends when it repeats a call after a broken
	// connection.
	errEmpty = errors.New("dropped: the request has no content")
	// errPanic is what a call with a defect in it answers.
	errPanic = errors.New("internal error, please report it with the plugin's log")
	// errUnanswered is a defect, too: it would be an empty answer.
	errUnanswered = errors.New("internal error, the call ended without an answer; please report it with the plugin's log")
)

// operation does one call's work and answers it; an error is answered by the
// caller of the operation.
type operation func(ctx context.Context, c *call) error

// handle wraps an operation in what every call has.
func (s *Server) handle(name string, level logrus.Level, do operation) {
	s.handler.HandleFunc("/VolumeDriver."+name, func(w http.ResponseWriter, r *http.Request) {
		if !s.calls.begin() {
			panic(http.ErrAbortHandler)
		}
		defer s.calls.done()
		start := time.Now()
		ctx, cancel := context.WithTimeout(r.Context(), s.budget)
		defer cancel()
		c := &call{ResponseWriter: w}
		err := c.read(r)
		if err == nil {
			err = s.guarded(ctx, name, c, do)
		}
		s.record(name, level, c, time.Since(start), err)
		switch {
		case err == nil:
		case c.answered, r.Context().Err() != nil, mustDrop(name, err):
			panic(http.ErrAbortHandler) // closes the connection, silently
		default:
			c.fails(err)
		}
	})
}

// mustDrop tells whether an error must not be answered, because the engine
// would take the answer for the truth about the volume and forget it. A dropped
// connection is no answer.
func mustDrop(name string, err error) bool {
	switch name {
	case "Get", "List", "Path":
		return !isNotFound(err)
	}
	return errors.Is(err, errEmpty)
}

func isNotFound(err error) bool {
	var known *driver.Error
	return errors.As(err, &known) && known.Kind == driver.NotFound
}

// read takes the request in whole: only then does the server notice that the
// engine gives up.
func (c *call) read(r *http.Request) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		return fmt.Errorf("%w that is whole: %w", errEmpty, err)
	case len(bytes.TrimSpace(body)) == 0:
		return errEmpty
	case len(body) > maxBody:
		// Who has not sent all of it does not read the answer.
		_, _ = io.Copy(io.Discard, r.Body)
		return fmt.Errorf("the request is longer than %d bytes", maxBody)
	}
	if err := json.Unmarshal(body, &c.request); err != nil {
		return fmt.Errorf("the request is not understood: %w", err)
	}
	return nil
}

// guarded runs the operation and turns a panic into an error.
func (s *Server) guarded(ctx context.Context, name string, c *call, do operation) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.WithFields(logrus.Fields{"call": name, "volume": c.Name}).Errorf("panic: %v\n%s", p, debug.Stack())
			err = errPanic
		}
	}()
	if err := do(ctx, c); err != nil || c.answered {
		return err
	}
	return errUnanswered
}

// record writes the call's log line.
func (s *Server) record(name string, level logrus.Level, c *call, took time.Duration, err error) {
	fields := logrus.Fields{"call": name, "took": took.Round(10 * time.Microsecond).String(), "outcome": "ok"}
	if c.Name != "" {
		fields["volume"] = c.Name
	}
	if c.ID != "" {
		fields["mount"] = c.ID
	}
	switch {
	case err == nil:
	case name == "Get" && isNotFound(err):
		// Docker asks every driver about every volume.
		fields["outcome"] = "not found"
	case errors.Is(err, errEmpty):
		fields["outcome"], level = err.Error(), logrus.DebugLevel
	default:
		fields["outcome"], level = err.Error(), logrus.ErrorLevel
	}
	s.log.WithFields(fields).Log(level, name)
}
