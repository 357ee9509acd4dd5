package driver

import (
	"errors"
	"fmt"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/peer"
)

const (
	// progressInterval is how often the kernel's own connections are looked at.
	progressInterval = 500 * time.Millisecond
	// stuckTime is how long the kernel has sent the same bytes again before they count as
	// stuck: a mount target that heals within two seconds is not left.
	stuckTime = 2 * time.Second
)

// watchDirect sees whether the kernel's own connections go on. A relay sees that of
// its connections; for direct ones the kernel is asked. Doubt alone moves nothing: a
// check of the mount target has to fail as well. A mount that could not be moved is moved
// when that is possible again.
func (f *fileSystem) watchDirect(g *proxy.Group) {
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	connections := map[string]*connection{} // by transport
	for {
		select {
		case <-tick.C:
		case <-f.d.life.Done():
			return
		}
		for _, s := range f.sessions() {
			if s.path != viaDirect || s.transport == "" {
				continue
			}
			if why := f.d.stuck(s, connections); why != nil {
				g.Doubt(f.targetOf(s.serverNow()), why)
			}
			if now := g.Current(); now.Addr != s.serverNow() {
				f.follow(s, now)
			}
		}
	}
}

// connection is what was last seen of one.
type connection struct {
	connected bool
	sending   time.Time // since when the same bytes are sent again; zero: they are not
}

// stuck tells why a direct mount's connection seems dead, nil if it does not.
func (d *Driver) stuck(s *session, connections map[string]*connection) error {
	t, err := d.rpc.Transport(s.transport)
	if err != nil || t.Server != s.serverNow().Addr() {
		return nil
	}
	c := connections[s.transport]
	if c == nil {
		c = &connection{}
		connections[s.transport] = c
	}
	was := c.connected
	c.connected = t.Connected
	if !t.Connected {
		c.sending = time.Time{}
		if was {
			// The kernel also closes what was idle for minutes.
			return errors.New("the kernel's connection is closed")
		}
		return nil
	}
	socket, err := peer.Find(t.Local, s.serverNow())
	if err != nil || socket.Queued == 0 || socket.Retransmits == 0 {
		c.sending = time.Time{}
		return nil
	}
	if c.sending.IsZero() {
		c.sending = time.Now()
	}
	if time.Since(c.sending) < stuckTime {
		return nil
	}
	return fmt.Errorf("%d bytes are not acknowledged after %d retransmissions", socket.Queued, socket.Retransmits)
}
