package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// serverLimit is how long a server may take to start.
const serverLimit = 30 * time.Second

// Server is a real NFSv4.1 server (nfs-ganesha) with a file system of its own. It
// exports
//
//	/          the whole, as EFS does; read and write, root is root
//	/export    a directory of it, the same rules
//	/readonly  read only
//	/squash    root becomes nobody, who may not write
//	/small     a file system of 8 MB
//
// to everyone, without delegations, with a lease of 30 s and after a restart a
// grace period of at most 10 s, which ends when the last known client has
// reclaimed. A write does not wait after the first start.
type Server struct {
	*Site
	options ServerOptions
	tree    string // directory with the server's program
	dir     string // of this server; the server sees dir/lab as /lab

	mu     sync.Mutex
	cmd    *exec.Cmd                // guarded by mu; nil while stopped
	ended  chan struct{}            // of cmd; guarded by mu
	frozen bool                     // guarded by mu
	faults map[netip.Addr]faultKind // guarded by mu
}

// ServerOptions describe a [Server].
type ServerOptions struct {
	// Name has at most 12 bytes.
	Name string
	// Addresses are one for each zone, or one for all.
	Addresses []netip.Addr
	// Of is a server whose file system it serves; nil: it has its own. State of clients
	// it shares with none: what a client holds at one the other knows nothing of.
	Of *Server
	// Root is the directory that it exports as /; empty: the whole.
	Root string
	// Port is where it listens; 0: 2049.
	Port uint16
}

// newServer makes the server's network and file system and starts it.
func newServer(ctx context.Context, options ServerOptions, tree, parent string) (*Server, error) {
	if options.Port == 0 {
		options.Port = nfsPort
	}
	s := &Server{options: options, tree: tree, dir: filepath.Join(parent, options.Name), faults: make(map[netip.Addr]faultKind)}
	if err := s.makeRoot(); err != nil {
		return nil, fmt.Errorf("make the root of server %s: %w", options.Name, err)
	}
	var err error
	if s.Site, err = newSite(ctx, options.Name, parent, options.Addresses); err != nil {
		return nil, err
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// Addr is the server's address in zone a, b or c. A server with one address
// answers there for every zone.
func (s *Server) Addr(zone string) netip.Addr {
	i := strings.Index("abc", zone)
	return s.addresses[min(max(i, 0), len(s.addresses)-1)]
}

// Dir is the directory on this machine that holds what the server exports as
// export ("/", "/export" ...). Tests look into it and change it behind the
// server's back. Only this process and what it starts can see it.
func (s *Server) Dir(export string) string {
	return filepath.Join(s.dir, "lab", "fs", export)
}

// Start starts a stopped server, with the state of its clients as it was on its
// disk, and returns when it listens. A server that runs is left alone.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, serverLimit)
	defer cancel()
	if err := os.Remove(s.logPath()); err != nil && !os.IsNotExist(err) {
		return err
	}
	words := s.ns.enter("chroot", filepath.Join(s.dir, "root"), "/usr/bin/ganesha.nfsd",
		"-F", "-f", "/lab/ganesha.conf", "-L", "/lab/log", "-p", "/run/ganesha.pid")
	cmd := exec.Command(words[0], words[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start server %s: %w", s.name, err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // however it ended, it is gone
		close(ended)
	}()
	s.cmd, s.ended = cmd, ended
	if err := s.awaitReady(ctx); err != nil {
		s.stop()
		return fmt.Errorf("start server %s: %w: %s", s.name, err, tail(s.Log()))
	}
	return nil
}

// awaitReady returns when the server says so; it is called with mu held.
func (s *Server) awaitReady(ctx context.Context) error {
	for !strings.Contains(s.Log(), "NFS SERVER INITIALIZED") {
		select {
		case <-s.ended:
			return errors.New("it ended")
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	for _, a := range s.addresses {
		if s.faults[a] != healthy {
			continue
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", netip.AddrPortFrom(a, s.options.Port).String())
		if err != nil {
			return err
		}
		conn.Close()
	}
	return nil
}

// Stop kills the server, as a crash would: no word to its clients, whose
// connections the kernel resets. It does nothing to a stopped server.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

func (s *Server) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // it may have ended by itself
	<-s.ended
	s.cmd, s.frozen = nil, false
}

// Freeze stops the server's processor: connections stay and new ones open, but
// nothing is answered until Thaw.
func (s *Server) Freeze() error { return s.signal(unix.SIGSTOP, true) }

// Thaw lets a frozen server go on.
func (s *Server) Thaw() error { return s.signal(unix.SIGCONT, false) }

func (s *Server) signal(signal syscall.Signal, frozen bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return fmt.Errorf("server %s is stopped: start it first", s.name)
	}
	if err := s.cmd.Process.Signal(signal); err != nil {
		return fmt.Errorf("send %s to server %s: %w", signal, s.name, err)
	}
	s.frozen = frozen
	return nil
}

// Log is what the server has said since its last start.
func (s *Server) Log() string {
	content, err := os.ReadFile(s.logPath())
	if err != nil {
		return ""
	}
	return string(content)
}

func (s *Server) logPath() string { return filepath.Join(s.dir, "lab", "log") }

// close ends the server and unmounts its file systems. It deletes no files: this
// machine's /dev is bound below, and what is left lies in the lab's own tmpfs.
func (s *Server) close() error {
	s.Stop()
	err := s.Site.close()
	for _, mounted := range []string{filepath.Join(s.dir, "root"), filepath.Join(s.dir, "lab")} {
		err = errors.Join(err, unix.Unmount(mounted, unix.MNT_DETACH))
	}
	return err
}
