package proxy

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"
)

const (
	// leastInter is the least time between two checks of one target, whoever asks.
	leastInter = 100 * time.Millisecond
	// secondHearing is how long the current target is asked once more when
	// another answers first after all were silent: then most likely the host's own
	// network is back, and staying costs nobody a lock.
	secondHearing = 250 * time.Millisecond
)

// Run checks the targets until the context ends, and returns when all its
// goroutines have. It is called once.
func (g *Group) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		soonest := g.startDue(ctx, &running)
		timer := time.NewTimer(soonest)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-g.wake:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// poke makes Run look at what is due.
func (g *Group) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// startDue starts the checks that are due and returns when the next one is.
func (g *Group) startDue(ctx context.Context, running *sync.WaitGroup) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	soonest := g.knobs.Inter
	for _, m := range g.members {
		switch {
		case m.asking:
		case m.next.After(now):
			soonest = min(soonest, m.next.Sub(now))
		default:
			c := check{group: g, member: m, addr: m.Target, began: now}
			m.turn++
			m.asking, m.began, c.turn = true, now, m.turn
			var asked context.Context
			asked, m.giveUp = context.WithTimeout(ctx, g.timeout(m))
			cancel := m.giveUp
			running.Go(func() {
				defer cancel()
				c.run(ctx, asked)
			})
		}
	}
	return soonest
}

// abandon gives up the check under way: nothing it says counts.
func (m *member) abandon() {
	if m.asking {
		m.turn++
		m.asking = false
		m.giveUp()
	}
}

// reask gives up the check under way, which began before the trouble, for one
// that begins now.
func (m *member) reask(now time.Time) {
	m.abandon()
	m.next = later(now, m.began.Add(leastInter))
}

// hurry makes all targets be checked now: one must know who lives before one
// leaves.
func (g *Group) hurry(now time.Time) {
	for _, m := range g.members {
		if soon := later(now, m.began.Add(g.knobs.FastInter)); soon.Before(m.next) {
			m.next = soon
		}
	}
}

func (g *Group) interval(m *member) time.Duration {
	switch {
	case m.health == Doubt, g.desperate() && g.allowed(m):
		return g.knobs.FastInter
	case m.health == Down:
		return g.knobs.DownInter
	}
	return g.knobs.Inter
}

func (g *Group) timeout(m *member) time.Duration {
	if m.health == Doubt || g.desperate() {
		return min(g.knobs.Timeout, doubtTimeout)
	}
	return g.knobs.Timeout
}

// check is one question to one member.
type check struct {
	group  *Group
	member *member
	addr   Target
	began  time.Time
	turn   uint64
}

func (c check) run(ctx, asked context.Context) {
	g := c.group
	rtt, err := g.options.Check(asked, c.addr.Addr)
	if err == nil {
		c.hearCurrent(ctx)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	g.mu.Lock()
	if c.member.turn == c.turn {
		c.member.asking = false
		if ctx.Err() == nil {
			g.judge(time.Now(), c, rtt, err)
		}
	}
	g.mu.Unlock()
	g.deliver()
	g.poke()
}

// hearCurrent asks the current target once more if this answer would be the
// end of it.
func (c check) hearCurrent(ctx context.Context) {
	g := c.group
	g.mu.Lock()
	current := g.current
	asks := g.desperate() && current != c.member && g.allowed(c.member) && g.allowed(current)
	addr := current.Addr
	g.mu.Unlock()
	if !asks {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, secondHearing)
	defer cancel()
	rtt, err := g.options.Check(ctx, addr)
	if err != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current == current {
		g.passed(time.Now(), current, rtt)
	}
}

// judge takes note of a check's result.
func (g *Group) judge(now time.Time, c check, rtt time.Duration, err error) {
	m := c.member
	switch {
	case err == nil:
		g.passed(now, m, rtt)
	case errors.Is(err, ErrRefused): // by one that serves
		g.passed(now, m, cmp.Or(m.rtt, now.Sub(c.began)))
	case ownFault(err): // says nothing of the target
	default:
		was, wasSince := m.health, m.since
		cause := m.missed(now, c.began, reason(err), g.knobs.Fall)
		g.noteHealth(m, was, wasSince)
		if was != m.health && m == g.current {
			g.hurry(now)
		}
		if cause != "" {
			g.fail(now, m, cause, reason(err))
		}
	}
	m.next = later(now, c.began.Add(jittered(g.interval(m))))
	g.reconsider(now)
}

// passed takes note of an answer. When the current target is dead and no other
// was known to live, the first that answers is the current one.
func (g *Group) passed(now time.Time, m *member, rtt time.Duration) {
	was, wasSince := m.health, m.since
	m.passed(now, rtt, g.knobs.Rise)
	rescue := g.desperate() && m != g.current && g.allowed(m)
	if rescue {
		m.become(now, Up, "")
	}
	g.noteHealth(m, was, wasSince)
	if rescue {
		g.leave(now, m, g.current.condemned, g.current.why)
	}
	g.acquit(m)
}

// ownFault reports an error that this host is to blame for.
func ownFault(err error) bool {
	for _, own := range []error{ErrIdentity, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EPERM, syscall.EACCES} {
		if errors.Is(err, own) {
			return true
		}
	}
	return false
}

// jittered spreads what many hosts would do at the same moment: 90 to 110 %.
func jittered(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}
