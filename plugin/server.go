package plugin

import (
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
	"sync"
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
	calls   sync.WaitGroup
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

// Wait waits for calls under way, no longer than the context.
func (s *Server) Wait(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		s.calls.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// Listen listens on a Unix socket that only root may use. A socket that a crash
// left is replaced; one that somebody serves is not.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("listen: %s is served by another process: stop that one first, or give another --socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
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
}

// answer sends a response and returns an error if it did not leave.
func (c *call) answer(response any) error {
	c.Header().Set("Content-Type", sdk.DefaultContentTypeV1_1)
	if raw, ok := response.([]byte); ok {
		_, err := c.Write(raw)
		return err
	}
	if err := json.NewEncoder(c.ResponseWriter).Encode(response); err != nil {
		return err
	}
	return http.NewResponseController(c.ResponseWriter).Flush()
}

// fails sends an error as Docker understands it.
func (c *call) fails(err error) { sdk.EncodeResponse(c, volume.NewErrorResponse(err.Error()), true) }

// operation does one call's work and answers it; an error is answered by the
// caller of the operation.
type operation func(ctx context.Context, c *call) error

// handle wraps an operation in what every call has.
func (s *Server) handle(name string, level logrus.Level, do operation) {
	s.handler.HandleFunc("/VolumeDriver."+name, func(w http.ResponseWriter, r *http.Request) {
		s.calls.Add(1)
		defer s.calls.Done()
		c := &call{ResponseWriter: w}
		if !c.read(r) {
			// The engine sends an empty body when it repeats a call after a broken
			// connection. An answer, even an error, would be taken for the truth
			// about the volume; a dropped connection is not.
			s.log.WithField("call", name).Debug("dropped a request without content")
			panic(http.ErrAbortHandler)
		}
		ctx, cancel := context.WithTimeout(r.Context(), s.budget)
		defer cancel()
		start := time.Now()
		err := s.guarded(ctx, name, c, do)
		s.record(name, level, c, time.Since(start), err)
		if err != nil && r.Context().Err() == nil {
			c.fails(err)
		}
	})
}

// read takes the request in whole: only then does the server notice that the
// engine gives up.
func (c *call) read(r *http.Request) bool {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	return err == nil && len(body) > 0 && json.Unmarshal(body, &c.request) == nil
}

// errPanic is what a call with a defect in it answers.
var errPanic = errors.New("internal error, please report it with the plugin's log")

// guarded runs the operation and turns a panic into an error. Queries are
// dropped instead: an error would make Docker forget the volume.
func (s *Server) guarded(ctx context.Context, name string, c *call, do operation) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		s.log.WithFields(logrus.Fields{"call": name, "volume": c.Name}).Errorf("panic: %v\n%s", p, debug.Stack())
		if name == "Get" || name == "List" || name == "Path" {
			panic(http.ErrAbortHandler)
		}
		err = errPanic
	}()
	return do(ctx, c)
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
	var known *driver.Error
	switch {
	case err == nil:
	case name == "Get" && errors.As(err, &known) && known.Kind == driver.NotFound:
		// Docker asks every driver about every volume.
		fields["outcome"] = "not found"
	default:
		fields["outcome"], level = err.Error(), logrus.ErrorLevel
	}
	entry := s.log.WithFields(fields)
	switch level {
	case logrus.ErrorLevel:
		entry.Error(name)
	case logrus.DebugLevel:
		entry.Debug(name)
	default:
		entry.Info(name)
	}
}
