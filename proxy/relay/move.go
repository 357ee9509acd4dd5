package relay

import (
	"context"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

// moved hears of the group's moves.
func (r *Relay) moved(move proxy.Move) {
	r.planned.Store(move.Cause == proxy.CauseDrain || move.Cause == proxy.CauseHome)
	r.spawn(r.followAll)
}

// followAll takes all clients to the mount target in use. The watch does the
// same each second, for a client that came by between two moves.
func (r *Relay) followAll() {
	for _, p := range r.snapshot() {
		if u := p.attached(); u != nil {
			r.follow(p, u)
		}
	}
}

// follow starts taking one client along, unless it is there already.
func (r *Relay) follow(p *pair, from *upstream) {
	if from.target.Addr == r.Group.Current().Addr || p.losing.Load() || !p.moving.CompareAndSwap(false, true) {
		return
	}
	r.spawn(func() {
		defer p.moving.Store(false)
		for !r.bring(p, from) {
		}
	})
}

// bring connects, and then resets the client. A client of a mount target that is
// gone is reset in any case after moveLimit: it is held when it comes back, which
// is better than to hang. One that was left by plan may be better where it is. It
// returns false to be called again.
func (r *Relay) bring(p *pair, from *upstream) bool {
	ctx, cancel := context.WithTimeout(p.ctx, moveLimit)
	defer cancel()
	to, err := r.connect(ctx)
	switch {
	case err == nil && to.target.Addr == from.target.Addr:
		to.reset() // the group has come back
		return true
	case err == nil:
		r.keep(to)
		r.count(&r.stats.Moved)
		p.end(true)
		return true
	case p.ctx.Err() != nil || from.target.Addr == r.Group.Current().Addr:
		return true
	case r.planned.Load():
		return false
	}
	r.count(&r.stats.Moved)
	p.end(true)
	return true
}
