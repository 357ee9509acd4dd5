package driver

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// session is a mounted root with its directories open. Calls that use it hold a
// reference, so that no descriptor is closed under a call that was left behind.
type session struct {
	root      Root
	base      *tree.Dir // the directory EFS_ROOT
	device    uint64    // of the mount
	path      string    // viaDirect or viaRelay, as it is
	transport string    // the kernel's, of a direct mount that can be moved
	since     time.Time
	steering  atomic.Bool // a move of a direct mount is under way

	mu      sync.Mutex // guards the following fields
	server  netip.AddrPort
	fixed   string // why a direct mount stays where it is, if it has to
	users   int
	retired bool
	closed  bool
	catalog *catalog.Catalog // opened at first use
}

// use takes a reference; false means that the session is closed already.
func (s *session) use() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.users++
	return true
}

func (s *session) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	s.closeIfUnused()
}

// serverNow is the address that the kernel talks to.
func (s *session) serverNow() netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server
}

func (s *session) setServer(server netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server, s.fixed = server, ""
}

// setFixed reports whether that is news.
func (s *session) setFixed(why string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := s.fixed != why
	s.fixed = why
	return news
}

// whyFixed is why a mount stays where it is, or why it is relayed.
func (s *session) whyFixed() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fixed
}

// retire closes the session as soon as nobody uses it.
func (s *session) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	s.closeIfUnused()
}

func (s *session) closeIfUnused() {
	if !s.retired || s.users > 0 || s.closed {
		return
	}
	s.closed = true
	if s.catalog != nil {
		s.catalog.Close()
	}
	_ = s.base.Close()
	s.root.Close()
}

// openCatalog returns the session's catalogue. Two calls may open it at the
// same moment; the second one's is closed again.
func (s *session) openCatalog(host string) (*catalog.Catalog, error) {
	s.mu.Lock()
	c := s.catalog
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	opened, err := catalog.Open(s.base, host)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.catalog != nil {
		opened.Close()
		return s.catalog, nil
	}
	s.catalog = opened
	return opened, nil
}
