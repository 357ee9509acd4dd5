package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Host is one virtual machine with a Docker Engine. Its commands run as root,
// over one ssh connection that is opened again when it breaks. Beside Debian's
// programs a host has
//
//	start-docker [dockerd options]  starts the Engine and waits for it
//	stop-docker [SIGNAL]            ends it; KILL is a crash
//
// and the container images busybox and postgres. The Engine's settings are in
// /etc/docker/daemon.json, its log is /run/dockerd.log.
type Host struct {
	name    string
	address netip.Addr
	lab     *Lab
	disk    *os.File

	mu      sync.Mutex
	machine *machine // guarded by mu; nil while off
	past    string   // consoles of earlier boots; guarded by mu

	dialing sync.Mutex  // one connection is opened at a time
	client  *ssh.Client // guarded by mu; nil when not connected
}

// Name is the host's name, as in Options.
func (h *Host) Name() string { return h.name }

// Addr is the host's address.
func (h *Host) Addr() netip.Addr { return h.address }

// ExitError is the error of a command that ran and failed.
type ExitError struct {
	Host    string
	Command string
	Status  int    // 128 and the signal's number if a signal ended it
	Stderr  string // what the command wrote there, as far as this package kept it
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: %s: exit status %d: %s", e.Host, e.Command, e.Status, strings.TrimSpace(e.Stderr))
}

// Run runs a line of shell on the host and returns what it wrote to its standard
// output, without the last newline. A command that fails gives an *ExitError. When
// ctx ends, the command is killed, if the host still answers, and Run returns.
func (h *Host) Run(ctx context.Context, shellCommand string) (stdout string, err error) {
	var output buffer
	err = h.run(ctx, shellCommand, nil, &output, nil)
	return strings.TrimSuffix(output.String(), "\n"), err
}

// Stream is Run with the output written as it comes; either writer may be nil. The
// error then holds what went to standard error only if stderr is nil.
func (h *Host) Stream(ctx context.Context, shellCommand string, stdout, stderr io.Writer) error {
	return h.run(ctx, shellCommand, nil, stdout, stderr)
}

// Upload copies a file of this machine to the host. The file at remotePath is
// replaced as a whole, so that a program that runs from it goes on.
func (h *Host) Upload(ctx context.Context, localPath, remotePath string, mode os.FileMode) error {
	f, err := os.Open(localPath)
	if err != nil {
		return err
	}
	defer f.Close()
	return h.upload(ctx, f, remotePath, mode)
}

// UploadBytes is Upload of content.
func (h *Host) UploadBytes(ctx context.Context, content []byte, remotePath string, mode os.FileMode) error {
	return h.upload(ctx, bytes.NewReader(content), remotePath, mode)
}

func (h *Host) upload(ctx context.Context, content io.Reader, remotePath string, mode os.FileMode) error {
	target, partial := shellQuote(remotePath), shellQuote(remotePath+".partial")
	line := fmt.Sprintf("mkdir -p %s && cat >%s && chmod %o %[2]s && mv -f %[2]s %[4]s",
		shellQuote(path.Dir(remotePath)), partial, mode.Perm(), target)
	return h.run(ctx, line, content, nil, nil)
}

// Dial connects from inside the host: to one of its unix sockets ("unix", path) or
// to an address that it can reach ("tcp", address). Deadlines do not work on the
// connection, closing does.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	client, err := h.connect(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := client.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("%s: dial %s %s: %w", h.name, network, address, err)
	}
	return conn, nil
}

// run runs a line of shell, which first tells its process ID: the ssh servers of
// older releases do not deliver signals.
func (h *Host) run(ctx context.Context, line string, stdin io.Reader, stdout, stderr io.Writer) error {
	session, err := h.session(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	var kept buffer
	if stderr == nil {
		stderr = &kept
	}
	told := &pidLine{rest: stderr}
	session.Stdin, session.Stdout, session.Stderr = stdin, stdout, told

	done := make(chan error, 1)
	go func() { done <- session.Run("echo $$ >&2\n" + line) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		h.abandon(session, told, done)
		return fmt.Errorf("%s: %s: %w", h.name, line, ctx.Err())
	}
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		return &ExitError{Host: h.name, Command: line, Status: exit.ExitStatus(), Stderr: kept.String()}
	default:
		return fmt.Errorf("%s: %s: %w: %s", h.name, line, errors.Join(err, h.ended()), kept.String())
	}
}
