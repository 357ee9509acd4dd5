package relay

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/tcp"
)

const (
	watchEvery = time.Second
	// stuckAfter is how long bytes may be unacknowledged.
	stuckAfter = 2 * time.Second
	// parkAfter is how long nothing flows before pipes are given back.
	parkAfter = 10 * time.Second
	// goneAfter is how many ticks a client may have ended while it is held: it
	// may be one that asked and closed its side, and waits for the answer.
	goneAfter = 3
	// halfLimit is for a client of which one side has ended and nothing flows.
	halfLimit = 5 * time.Minute
)

// watch looks at all pairs each second until the relay ends.
func (r *Relay) watch() {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.look(time.Now())
		case <-r.ctx.Done():
			return
		}
	}
}

// progress is what one look found of one mount target.
type progress struct {
	target proxy.Target
	moved  bool
	stuck  error
}

func (r *Relay) look(now time.Time) {
	r.looking.Lock()
	defer r.looking.Unlock()
	r.expire(now.Add(-readyFor))
	found := make(map[netip.AddrPort]*progress)
	for _, p := range r.snapshot() {
		if p.dismissed.Load() {
			continue // it is read
		}
		u := p.attached()
		if u == nil || p.losing.Load() {
			p.lookAtClient()
			continue
		}
		r.follow(p, u)
		if p.keepsBack() {
			p.lookAtClient() // nobody reads from it
		}
		if p.idle() {
			continue // nothing is under way: not worth a system call
		}
		of := found[u.target.Addr]
		if of == nil {
			of = &progress{target: u.target}
			found[u.target.Addr] = of
		}
		p.lookAt(u, now, of)
	}
	for _, of := range found {
		switch {
		case of.moved: // one connection that goes on says more than one that does not
			r.Group.Answered(of.target)
		case of.stuck != nil:
			r.Group.Doubt(of.target, of.stuck)
		}
	}
}

// idle: neither direction has begun to copy since it last waited.
func (p *pair) idle() bool {
	return p.up.state.Load() == waiting && p.down.state.Load() == waiting
}

// lookAt counts a connection's bytes and judges its progress.
func (p *pair) lookAt(u *upstream, now time.Time, of *progress) {
	info, err := p.relay.account(u)
	if err != nil {
		return // closed in this moment
	}
	before := u.seen
	u.seen = info
	// Two looks in a row: right after an idle hour the latest ACK is an hour old.
	waits := info.Unacked > 0 && info.Acked == before.Acked && info.Received == before.Received
	if waits && u.stuck && info.SinceACK > stuckAfter {
		of.stuck = fmt.Errorf("nothing acknowledged for %s", info.SinceACK.Round(100*time.Millisecond))
	}
	u.stuck = info.Unacked > 0
	if info.Acked != before.Acked || info.Received != before.Received {
		of.moved = true
	}
	if info.Sent != before.Sent || info.Received != before.Received || info.Unacked > 0 || info.NotSent > 0 {
		u.moved = now
		return
	}
	switch still := now.Sub(u.moved); {
	case p.half() && still > halfLimit:
		p.end(true)
	case still > parkAfter:
		p.park(u)
	}
}

func (p *pair) half() bool {
	return p.up.state.Load() == finished || p.down.state.Load() == finished
}

// park makes directions that wait within a copy leave it. Between two reads
// nothing is lost by that.
func (p *pair) park(u *upstream) {
	past := time.Unix(1, 0)
	if p.up.state.Load() == flowing {
		_ = p.wire.SetReadDeadline(past)
	}
	if p.down.state.Load() == flowing {
		_ = u.conn.SetReadDeadline(past)
	}
}

// lookAtClient ends a pair whose client went while nobody was reading from it.
func (p *pair) lookAtClient() {
	info, err := tcp.ReadInfo(p.client)
	switch {
	case err != nil:
	case info.State == tcp.Closed:
		p.end(true)
	case info.State == tcp.CloseWait:
		if p.gone++; p.gone >= goneAfter {
			p.end(true)
		}
	}
}
