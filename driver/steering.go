package driver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

const (
	// steerLimit is how long the kernel may take to move a mount: it waits for the
	// transport to be free and then connects.
	steerLimit = 5 * time.Second
	// steerCheck is how often it is looked whether it has.
	steerCheck = 50 * time.Millisecond
	// findTries bounds the questions by which a transport is told from others to the
	// same server.
	findTries = 5
)

// findTransport finds the kernel's transport of a direct root mount, empty if the kernel
// does not show it or it cannot be told from another. Of several to one server
// it is the one that a question on this mount uses.
func (d *Driver) findTransport(root Root) string {
	server, err := root.Server()
	if err != nil || d.rpc == nil {
		return ""
	}
	candidates := func() map[string]uint64 {
		all, err := d.rpc.Transports()
		if err != nil {
			return nil
		}
		used := map[string]uint64{}
		for _, t := range all {
			if t.Connected && t.Server == server.Addr() && t.ServerPort == server.Port() {
				used[t.Name] = t.LastUsed
			}
		}
		return used
	}
	for range findTries {
		before := candidates()
		if len(before) == 1 {
			return onlyName(before)
		}
		if err := ask1(root.Dir()); err != nil {
			return ""
		}
		changed := map[string]uint64{}
		for name, used := range candidates() {
			if before[name] != used {
				changed[name] = used
			}
		}
		if len(changed) == 1 {
			return onlyName(changed)
		}
	}
	return ""
}

func onlyName(one map[string]uint64) string {
	for name := range one {
		return name
	}
	return ""
}

// ask1 puts one question to the server.
func ask1(dir *tree.Dir) error {
	_, err := dir.Refresh()
	return err
}

// moved brings the direct root mounts to the mount target that is in use now; relays
// do that for theirs.
func (f *fileSystem) moved(move proxy.Move) {
	select {
	case f.lost <- struct{}{}:
	default:
	}
	f.keepPosition(move.To)
	f.watchRecovery(move)
	for _, s := range f.sessions() {
		if s.path == viaDirect {
			f.follow(s, move.To)
		}
	}
}

// follow brings one direct root mount to a mount target, in the background. One that
// is under way is let end first; watchDirect asks again.
func (f *fileSystem) follow(s *session, to proxy.Target) {
	if !s.use() {
		return
	}
	if !s.steering.CompareAndSwap(false, true) {
		s.release()
		return
	}
	begun := f.d.spawn(func() {
		defer s.release()
		defer s.steering.Store(false)
		if err := f.steer(s, to); err != nil {
			f.refuse(s, to, err)
		}
	})
	if !begun {
		s.release()
	}
}

// refuse notes why a direct root mount did not move. The same reason is logged once.
func (f *fileSystem) refuse(s *session, to proxy.Target, why error) {
	if s.setFixed(why.Error()) {
		f.d.log.WithField("filesystem", f.spec).Errorf("move the mount to %s: %v", to, why)
	}
}

func (f *fileSystem) sessions() []*session {
	return slices.Collect(maps.Values(f.establishedSessions()))
}

func (f *fileSystem) establishedSessions() map[*transport]*session {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[*transport]*session{}
	for _, t := range f.transports {
		if s := t.established(); s != nil {
			all[t] = s
		}
	}
	return all
}

// steer writes the address into the kernel's transport and sees that the mount has
// it. Several root mounts may share the transport: then it is there already.
func (f *fileSystem) steer(s *session, to proxy.Target) error {
	if s.transport == "" {
		return fmt.Errorf("%w; use via=relay", sunrpc.ErrUnsupported)
	}
	if to.Addr.Port() != s.serverNow().Port() {
		return fmt.Errorf("the kernel keeps port %d; use via=relay", s.serverNow().Port())
	}
	now, err := f.d.rpc.Transport(s.transport)
	if err != nil {
		return err
	}
	if now.Server != to.Addr.Addr() {
		if now.Server != s.serverNow().Addr() {
			return fmt.Errorf("transport %s now belongs to another server, %s", s.transport, now.Server)
		}
		ctx, cancel := context.WithTimeout(f.d.life, steerLimit)
		defer cancel()
		if err := f.d.rpc.Move(ctx, s.transport, to.Addr.Addr()); err != nil {
			return err
		}
	}
	return f.awaitServer(s, to)
}

func (f *fileSystem) awaitServer(s *session, to proxy.Target) error {
	for begun := time.Now(); time.Since(begun) < steerLimit; {
		server, err := s.root.Server()
		if err != nil {
			return err
		}
		if server == to.Addr {
			s.setServer(server)
			f.d.log.WithField("filesystem", f.spec).Infof("the kernel's mount is at %s", to)
			return nil
		}
		select {
		case <-time.After(steerCheck):
		case <-f.d.life.Done():
			return f.d.life.Err()
		}
	}
	return fmt.Errorf("the mount still shows another address after %v", steerLimit)
}
