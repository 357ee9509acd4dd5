package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// dialSilence is how long the current target may stay silent before the
	// others are tried beside it: one lost SYN, sent again after 1 s, is no reason.
	dialSilence = 1200 * time.Millisecond
	// headStart is what each further target gets before the next one is tried.
	headStart = 250 * time.Millisecond
	// dialTimeout ends an attempt: a fresh SYN comes sooner than the kernel's
	// ever rarer repetitions.
	dialTimeout   = 3 * time.Second
	shortestPause = 100 * time.Millisecond
	longestPause  = time.Second
)

var (
	errNews      = errors.New("the current mount target changed")
	errNoTargets = errors.New("no mount target is known")
	errSilent    = errors.New("no answer to a connection attempt")
)

// Connect returns a connection to the current target. If that one refuses, or
// is silent for longer than a lost packet explains, the others are tried in
// order, and the one that answers becomes the current one. If none does, it goes
// on until the context ends. The caller closes the connection.
func (g *Group) Connect(ctx context.Context) (*net.TCPConn, Target, error) {
	var last error
	for pause := shortestPause; ; pause = min(2*pause, longestPause) {
		r := g.newRace()
		conn, target, err := r.run(ctx)
		switch {
		case err == nil:
			return conn, target, nil
		case ctx.Err() != nil:
			if last == nil {
				last = err
			}
			return nil, Target{}, fmt.Errorf("connect to file system %s: %w (%w)", g.options.FileSystem, ctx.Err(), last)
		case errors.Is(err, errNews):
			continue
		}
		last = err
		timer := time.NewTimer(jittered(pause))
		select {
		case <-timer.C:
		case <-r.news:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// race is one round of attempts, the current target's first.
type race struct {
	group   *Group
	runners []Target
	news    <-chan struct{}
	results chan attempt // has room for all, so that none waits
	started int
	running sync.WaitGroup
}

type attempt struct {
	conn   *net.TCPConn
	target Target
	err    error
}

func (g *Group) newRace() *race {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := &race{group: g, news: g.news}
	if g.current == nil {
		return r
	}
	r.runners = []Target{g.current.Target}
	var later []Target
	now := time.Now()
	for _, m := range g.order() {
		switch {
		case m == g.current, !g.allowed(m):
		case m.health == Down, m.hold.holds(now):
			later = append(later, m.Target)
		default:
			r.runners = append(r.runners, m.Target)
		}
	}
	r.runners = append(r.runners, later...)
	r.results = make(chan attempt, len(r.runners))
	return r
}

// run returns the winner's connection; all other attempts have ended then.
func (r *race) run(parent context.Context) (*net.TCPConn, Target, error) {
	if len(r.runners) == 0 {
		return nil, Target{}, errNoTargets
	}
	ctx, cancel := context.WithCancel(parent)
	defer r.clear()
	defer cancel()
	r.start(ctx)
	clock := time.NewTimer(dialSilence)
	defer clock.Stop()
	var last error
	for failed := 0; failed < len(r.runners); {
		select {
		case a := <-r.results:
			switch {
			case a.err != nil && parent.Err() != nil:
				return nil, Target{}, parent.Err()
			case a.err != nil:
				failed++
				last = a.err
				r.group.dialFailed(a)
				r.start(ctx)
				clock.Reset(headStart)
			case r.group.won(r.runners[0], a.target):
				return a.conn, a.target, nil
			default:
				_ = a.conn.Close()
				return nil, Target{}, errNews
			}
		case <-clock.C:
			if r.started == 1 {
				r.group.Doubt(r.runners[0], errSilent)
			}
			r.start(ctx)
			clock.Reset(headStart)
		case <-r.news:
			return nil, Target{}, errNews
		case <-parent.Done():
			return nil, Target{}, parent.Err()
		}
	}
	return nil, Target{}, last
}

// start starts the next attempt, if there is one.
func (r *race) start(ctx context.Context) {
	if r.started == len(r.runners) {
		return
	}
	target := r.runners[r.started]
	r.started++
	r.running.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		conn, err := r.group.options.Dial(ctx, target.Addr)
		r.results <- attempt{conn, target, err}
	})
}

// clear waits for the losers and closes what they still got.
func (r *race) clear() {
	r.running.Wait()
	close(r.results)
	for a := range r.results {
		if a.err == nil {
			_ = a.conn.Close()
		}
	}
}

// dialFailed tells the group of an attempt that a target answered with no.
// Silence is left to the checks.
func (g *Group) dialFailed(a attempt) {
	if causeOf(a.err) == CauseRefused && !ownFault(a.err) {
		g.Failed(a.target, a.err)
	}
}

// won makes the winner the current target. It is false if others have decided
// in the meantime: there is one decision for all.
func (g *Group) won(first, winner Target) bool {
	defer g.deliver()
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.find(winner)
	switch {
	case m == nil:
		return false
	case m == g.current:
		return true
	case g.find(first) != g.current || !g.allowed(m):
		return false
	}
	now := time.Now()
	was, wasSince := m.health, m.since
	m.become(now, Up, "")
	m.next = now // it has connected; whether it serves is another question
	g.noteHealth(m, was, wasSince)
	cause, why := g.current.condemned, g.current.why
	if cause == "" {
		cause, why = CauseTimeout, errSilent.Error()
	}
	g.leave(now, m, cause, why)
	g.poke()
	return true
}
