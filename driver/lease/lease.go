package lease

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrReleased is why the gate of a lease that was given back stays shut.
var ErrReleased = errors.New("the lease was given back")

// Lease is one that this host has, or had. Make one with [Keeper.Acquire] or [Keeper.Adopt].
type Lease struct {
	Volume string
	Tenure Tenure
	keeper *Keeper

	mu      sync.Mutex // guards the following fields
	entry   Entry      // as this host left it
	until   time.Time  // when the gate shuts; the zero time: it is shut
	opens   bool       // it was open once
	steps   time.Time  // when the latest step was taken
	strange int        // looks in a row that showed an older serial and another tenure
	over    error      // why it never opens again
	changed chan struct{}
}

// Open tells whether bytes may pass at this moment. What passes between the question and the
// server when the gate shuts is the eviction's to refuse.
func (l *Lease) Open() bool {
	now := l.keeper.clock().Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over == nil && now.Before(l.until)
}

// Late tells whether the gate was open and is shut because the lease could not be renewed in time. It may open again.
func (l *Lease) Late() bool {
	now := l.keeper.clock().Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over == nil && l.opens && !now.Before(l.until)
}

// Over is why the gate never opens again; nil if it may.
func (l *Lease) Over() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// Wait returns when the gate is open, or why it never will be again, or the context's error.
func (l *Lease) Wait(ctx context.Context) error {
	for {
		open := l.Open()
		l.mu.Lock()
		over, changed := l.over, l.changed
		l.mu.Unlock()
		if over != nil || open {
			return over
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Shut returns when the gate is shut, or the context's error.
func (l *Lease) Shut(ctx context.Context) error {
	for {
		now := l.keeper.clock().Now()
		l.mu.Lock()
		left, over := l.until.Sub(now), l.over
		l.mu.Unlock()
		if over != nil || left <= 0 {
			return nil
		}
		// In short steps: it may be shut before its time.
		if err := l.keeper.clock().Sleep(ctx, min(left, retry)); err != nil {
			return err
		}
	}
}

// news wakes who waits. The caller holds mu.
func (l *Lease) news() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// extend keeps the gate open after a sign of life that was given from begun on. It reports false
// if the gate was shut when that ended: another host may have taken the lease by then.
func (l *Lease) extend(begun time.Time) bool {
	now := l.keeper.clock().Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil {
		return true
	}
	if !now.Before(l.until) {
		return false
	}
	l.opened(begun)
	return true
}

// shut has the gate shut until the lease is confirmed.
func (l *Lease) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = time.Time{}
}

func (l *Lease) stepped() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.steps
}

// opened has the gate open for a term from begun on. The caller holds mu.
func (l *Lease) opened(begun time.Time) {
	if until := begun.Add(Term - margin); until.After(l.until) {
		l.until, l.opens = until, true
		l.news()
	}
}

// End shuts the gate for good. The first reason stays.
func (l *Lease) End(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over == nil {
		l.over = why
		l.news()
	}
}

// Confirm finds out, by a step that begins after the call, whether the lease is still this
// host's. If it is not, the gate is shut for good and that is the error.
func (l *Lease) Confirm(ctx context.Context) error {
	for {
		if err := l.Over(); err != nil {
			return err
		}
		err := l.step(ctx)
		if err == nil || l.Over() != nil {
			return err
		}
		if err := l.keeper.clock().Sleep(ctx, retry); err != nil {
			return err
		}
	}
}

// step takes a step from the lease as this host left it.
func (l *Lease) step(ctx context.Context) error {
	l.mu.Lock()
	from := l.entry
	l.mu.Unlock()
	to := from.next(l.Tenure, Tenure{})
	begun := l.keeper.clock().Now()
	err := l.keeper.Store.Take(ctx, l.Volume, from, to)
	if errors.Is(err, ErrTaken) {
		return l.catchUp(ctx)
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil {
		return l.over
	}
	if to.Serial > l.entry.Serial {
		l.entry = to
	}
	l.steps, l.strange = begun, 0
	l.opened(begun)
	return nil
}

// maxStrange is how many looks in a row may be older ones. A look after a step that was refused is
// fresh but for what the kernel remembers of names.
const maxStrange = 3

// errLater reports a step that this host had taken without hearing of it.
var errLater = errors.New("an earlier step was taken late")

// catchUp finds out who has taken a step: perhaps this host, whose answer was lost.
func (l *Lease) catchUp(ctx context.Context) error {
	current, err := l.keeper.Store.Look(ctx, l.Volume)
	gone := errors.Is(err, ErrNone)
	if err != nil && !gone {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !gone && current.Serial < l.entry.Serial && (current.Tenure == l.Tenure || l.strange < maxStrange):
		l.strange++ // an older look, unless it stays: the lease was made anew by a host whose clock is behind
		return errLater
	case !gone && current.Tenure == l.Tenure && current.From == Tenure{}:
		l.entry = current
		return errLater
	case l.over == nil:
		l.over = &LostError{Volume: l.Volume, To: current.Host.Name}
		l.news()
	}
	return l.over
}

// LostError is why a lease is over that another host has taken.
type LostError struct {
	Volume string
	// To is the host's name; "" if the lease is free or gone.
	To string
}

func (e *LostError) Error() string {
	if e.To == "" {
		return "this host was taken for dead, and lost its lease"
	}
	return "this host was taken for dead, and lost its lease to host " + e.To
}

func (e *LostError) Unwrap() error { return ErrTaken }
