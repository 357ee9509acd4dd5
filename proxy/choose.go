package proxy

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// unanswered is how long a question may be open before a target that was up is
// no longer taken at its word: when the host's own network is gone, none answers
// and nothing is won by going elsewhere.
const unanswered = 500 * time.Millisecond

// order returns the members in order of preference: not drained, no backup, home
// zone, round-trip time, the order given.
func (g *Group) order() []*member {
	ordered := slices.Clone(g.members)
	slices.SortStableFunc(ordered, func(a, b *member) int {
		return cmp.Or(
			boolOrder(!g.drained[a.Zone])-boolOrder(!g.drained[b.Zone]),
			boolOrder(!a.Backup)-boolOrder(!b.Backup),
			boolOrder(g.atHome(a))-boolOrder(g.atHome(b)),
			cmp.Compare(measured(a), measured(b)),
		)
	})
	return ordered
}

func (g *Group) atHome(m *member) bool { return g.options.Home != "" && m.Zone == g.options.Home }

// measured sorts targets that never answered behind all others.
func measured(m *member) time.Duration {
	if m.rtt == 0 {
		return math.MaxInt64
	}
	return m.rtt
}

// allowed reports whether a member may be used at all: it is not drained, or
// all are.
func (g *Group) allowed(m *member) bool {
	return !g.drained[m.Zone] || !slices.ContainsFunc(g.members, func(m *member) bool { return !g.drained[m.Zone] })
}

// best returns the first in order that is allowed, may be taken at its word and
// fulfils the condition; never the current one.
func (g *Group) best(now time.Time, condition func(*member) bool) *member {
	for _, m := range g.order() {
		alive := m.health == Up || m.health == Unknown
		open := m.asking && now.Sub(m.began) >= unanswered
		if m != g.current && alive && !open && g.allowed(m) && condition(m) {
			return m
		}
	}
	return nil
}

// fail carries out the verdict on a member.
func (g *Group) fail(now time.Time, m *member, cause Cause, why string) {
	was, wasSince := m.health, m.since
	if m != g.current {
		m.fallen(now, why)
		g.noteHealth(m, was, wasSince)
		return
	}
	if m.condemned != "" {
		cause = m.condemned
	}
	next := g.best(now, func(m *member) bool { return !m.hold.holds(now) })
	if next != nil {
		g.leave(now, next, cause, why)
		return
	}
	// None is sure to be better, so this one stays until another has answered. The
	// last usable one is never down.
	m.become(now, Doubt, why)
	g.noteHealth(m, was, wasSince)
	m.condemned = cause
	g.hurry(now)
}

// leave moves from the current member, which failed, to another.
func (g *Group) leave(now time.Time, next *member, cause Cause, why string) {
	from := g.current
	was, wasSince := from.health, from.since
	from.fallen(now, why)
	g.noteHealth(from, was, wasSince)
	from.hold.leave(now)
	g.move(now, next, cause, why)
}

// acquit ends the search for another target: the current one answers.
func (g *Group) acquit(m *member) {
	if m.condemned != "" && m.health == Up {
		m.condemned = ""
		g.tell()
	}
}

// desperate reports that the current target is dead and no other known to live.
func (g *Group) desperate() bool { return g.current != nil && g.current.condemned != "" }

// reconsider moves without need: away from a drained zone, or home.
func (g *Group) reconsider(now time.Time) {
	if !g.allowed(g.current) {
		next := g.best(now, func(m *member) bool { return !m.hold.holds(now) })
		if next == nil {
			next = g.best(now, func(*member) bool { return true })
		}
		if next != nil {
			g.move(now, next, CauseDrain, fmt.Sprintf("zone %s is drained", g.current.Zone))
		}
		return
	}
	if g.options.Return != ReturnHome || !g.wentHome.IsZero() && now.Sub(g.wentHome) < homeAtMostPer {
		return
	}
	home := g.best(now, func(m *member) bool {
		preferred := g.atHome(m) && !g.atHome(g.current) || g.current.Backup
		return preferred && !m.Backup && !m.hold.holds(now) && m.health == Up && now.Sub(m.since) >= homeUpFor
	})
	if home != nil {
		g.wentHome = now
		g.move(now, home, CauseHome, fmt.Sprintf("%s has been up for %s", home, homeUpFor))
	}
}

// replaceGone finds another target for one that is no longer there. It has to
// take whatever there is.
func (g *Group) replaceGone(now time.Time) {
	next := g.best(now, func(m *member) bool { return !m.hold.holds(now) })
	if next == nil {
		next = g.best(now, func(*member) bool { return true })
	}
	if next == nil {
		next = g.order()[0]
		was, wasSince := next.health, next.since
		next.become(now, Doubt, next.why)
		g.noteHealth(next, was, wasSince)
		next.condemned = CauseCheck
	}
	gone := g.current
	g.move(now, next, CauseGone, fmt.Sprintf("mount target %s is no longer there", gone))
	g.hurry(now)
}
