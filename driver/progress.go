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
	progressInterval = time.Second
	// stuckRetransmits is how often the kernel has sent the same bytes again before
	// they count as stuck: the third time comes 1.4 s after the first, at the usual
	// least time-out of 200 ms, doubled (tcp_retransmit_timer).
	stuckRetransmits = 2
)

// watchDirect sees whether the kernel's own connections go on. A relay sees that of
// its connections; for direct ones the kernel is asked. Doubt alone moves nothing: a
// check of the mount target has to fail as well. A mount that could not be moved is moved
// when that is possible again.
func (f *fileSystem) watchDirect(g *proxy.Group) {
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	connected := map[string]bool{} // transports, as last seen
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
			if why := f.d.stuck(s, connected); why != nil {
				g.Doubt(f.targetOf(s.serverNow()), why)
			}
			if now := g.Current(); now.Addr != s.serverNow() {
				f.follow(s, now)
			}
		}
	}
}

// stuck tells why a direct mount's connection seems dead, nil if it does not.
func (d *Driver) stuck(s *session, connected map[string]bool) error {
	t, err := d.rpc.Transport(s.transport)
	if err != nil || t.Server != s.serverNow().Addr() {
		return nil
	}
	was := connected[s.transport]
	connected[s.transport] = t.Connected
	if !t.Connected {
		if was {
			// The kernel also closes what was idle for minutes.
			return errors.New("the kernel's connection is closed")
		}
		return nil
	}
	socket, err := peer.Find(t.Local, s.serverNow())
	if err != nil || socket.Queued == 0 || socket.Retransmits < stuckRetransmits {
		return nil
	}
	return fmt.Errorf("%d bytes are not acknowledged after %d retransmissions", socket.Queued, socket.Retransmits)
}
