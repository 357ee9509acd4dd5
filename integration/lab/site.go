package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

// Site is a place in the hosts' network: addresses of its own, and programs that run there.
type Site struct {
	name      string
	addresses []netip.Addr
	ns        namespace
	dir       string // of the programs' output

	mu       sync.Mutex // guards the following field
	programs []*Program
}

// Program runs on a [Site] until it is stopped or the lab ends.
type Program struct {
	cmd   *exec.Cmd
	path  string
	ended chan struct{}
}

func newSite(ctx context.Context, name, parent string, addresses []netip.Addr) (*Site, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	s := &Site{name: name, addresses: addresses, ns: ns, dir: filepath.Join(parent, name+"-programs")}
	if err := ns.connect(ctx, name, addresses); err != nil {
		return nil, errors.Join(err, ns.f.Close())
	}
	return s, os.MkdirAll(s.dir, 0o755)
}

// Run starts a program of this machine on the site; what it needs of a Debian tree it
// reaches by chroot(8) as a word before it. It does not run as anybody else than root.
func (s *Site) Run(name string, words ...string) (*Program, error) {
	p := &Program{path: filepath.Join(s.dir, name+".log"), ended: make(chan struct{})}
	output, err := os.OpenFile(p.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	words = s.ns.enter(words...)
	p.cmd = exec.Command(words[0], words[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = output, output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", name, s.name, err)
	}
	go func() {
		_ = p.cmd.Wait() // however it ended, it is gone
		close(p.ended)
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.programs = append(s.programs, p)
	return p, nil
}

// Log is what the program has said.
func (p *Program) Log() string {
	content, err := os.ReadFile(p.path)
	if err != nil {
		return ""
	}
	return string(content)
}

// Ended is closed when the program has ended.
func (p *Program) Ended() <-chan struct{} { return p.ended }

// Stop kills the program and what it started.
func (p *Program) Stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may have ended by itself
	<-p.ended
}

func (s *Site) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range slices.Backward(s.programs) {
		p.Stop()
	}
	return s.ns.f.Close()
}

// Addresses are 10.77.0.N.
func Addresses(lastBytes ...byte) []netip.Addr {
	all := make([]netip.Addr, len(lastBytes))
	for i, last := range lastBytes {
		all[i] = serverAddress(last)
	}
	return all
}
