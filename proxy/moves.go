package proxy

import (
	"slices"
	"time"
)

// OnMove registers a function that hears of each move after [Group.Current]
// changed: one at a time, in order, without a lock held, on the goroutine of
// whoever caused a move. It must return soon, and may call the group. It hears of no move that
// begins after forget was called.
func (g *Group) OnMove(f func(Move)) (forget func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	listener := &f
	g.listeners = append(g.listeners, listener)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.listeners = slices.DeleteFunc(g.listeners, func(one *func(Move)) bool { return one == listener })
	}
}

// move makes another member the current one.
func (g *Group) move(now time.Time, to *member, cause Cause, why string) {
	from := g.current
	move := Move{At: now, From: from.Target, To: to.Target, Cause: cause, Why: why}
	from.condemned = ""
	g.current = to
	g.moves[cause]++
	g.recent = slices.Insert(g.recent, 0, move)
	g.recent = g.recent[:min(len(g.recent), recentMoves)]
	g.tell()
	listeners := slices.Clone(g.listeners)
	g.events = append(g.events, func() {
		g.options.Log.WithField("cause", string(cause)).Warnf("file system %s: moved from %s to %s: %s", g.options.FileSystem, move.From, move.To, why)
		for _, listener := range listeners {
			(*listener)(move)
		}
	})
}

// noteHealth logs a change of health and forgets a target's past after a long
// good time.
func (g *Group) noteHealth(m *member, was Health, since time.Time) {
	if m.health == was {
		return
	}
	if was == Up {
		m.hold.wasUp(m.since.Sub(since))
	}
	target, health, why := m.Target, m.health, m.why
	g.events = append(g.events, func() {
		log := g.options.Log.WithField("health", string(health))
		text := "file system %s: mount target %s was %s, is %s"
		switch {
		case why != "":
			log.Warnf(text+": %s", g.options.FileSystem, target, was, health, why)
		case was != Unknown:
			log.Infof(text, g.options.FileSystem, target, was, health)
		}
	})
}

// tell wakes those who wait for a target to connect to.
func (g *Group) tell() {
	close(g.news)
	g.news = make(chan struct{})
}

// deliver tells the outside what happened. Whoever comes while another
// goroutine is at it leaves the rest to that one, which keeps the order.
func (g *Group) deliver() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.delivering {
		return
	}
	g.delivering = true
	for len(g.events) > 0 {
		event := g.events[0]
		g.events = g.events[1:]
		g.mu.Unlock()
		event()
		g.mu.Lock()
	}
	g.delivering = false
}
