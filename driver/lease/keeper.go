package lease

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Keeper is one host's side of the protocol on one file system. Its fields are set before the
// first call and not changed after.
type Keeper struct {
	Self  Host
	Store Store
	// Clock is for tests; nil means the machine's.
	Clock Clock

	mu      sync.Mutex // guards the following fields
	held    map[*Lease]struct{}
	watched map[string]watch // by volume: what calls that have given up saw
	asked   time.Time        // when a lease was confirmed in turn; Run's alone
}

func (k *Keeper) clock() Clock {
	if k.Clock == nil {
		return wall{}
	}
	return k.Clock
}

// HeldError reports a lease that another host has.
type HeldError struct {
	By Host
	// Left is how long it is at most until the lease can be taken, if that host is dead.
	Left time.Duration
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("host %s has it for itself (access=exclusive): stop its container there; if that host is dead, this works in %v at most",
		e.By.Name, e.Left.Round(time.Second))
}

// Acquire takes a volume's lease as soon as it is free, or its holder has given no sign for a
// whole term. It waits as long as the context lets it, and then fails with a [*HeldError]. The
// lease is released with [Keeper.Release].
func (k *Keeper) Acquire(ctx context.Context, volume string) (*Lease, error) {
	w := k.watching(volume)
	defer func() { k.watchOn(volume, w) }()
	for turn := soon; ; turn = min(2*turn, poll) {
		current, ready, err := k.look(ctx, volume, &w)
		if err == nil && ready {
			var l *Lease
			if l, err = k.take(ctx, volume, current); err == nil {
				w = watch{}
				return l, nil
			}
		}
		pause := turn
		switch {
		case ctx.Err() != nil && w.by != Host{}:
			return nil, w.held(k.clock().Now())
		case errors.Is(err, ErrTaken):
			pause = soon
		case err != nil:
			return nil, err
		}
		if err := k.clock().Sleep(ctx, pause); err != nil {
			return nil, w.held(k.clock().Now())
		}
	}
}

// watching is what an earlier call saw of a volume's lease: a name and a sign that are the same at
// both ends of a term were so in between.
func (k *Keeper) watching(volume string) watch {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.watched[volume]
}

func (k *Keeper) watchOn(volume string, w watch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.watched == nil {
		k.watched = map[string]watch{}
	}
	if k.watched[volume] = w; w.since.IsZero() {
		delete(k.watched, volume)
	}
}

// look tells whether the lease can be taken.
func (k *Keeper) look(ctx context.Context, volume string, w *watch) (current Entry, ready bool, err error) {
	begun := k.clock().Now()
	current, err = k.Store.Look(ctx, volume)
	if err != nil || current.Free() || current.Host.ID == k.Self.ID {
		return current, err == nil, err
	}
	sign, err := k.Store.Sign(ctx, volume, current.Host)
	if err != nil {
		return current, false, err
	}
	return current, w.saw(current, sign, begun, k.clock().Now()), nil
}

// watch is since when a lease has been as it is, by this host's clock.
type watch struct {
	entry Entry
	sign  Sign
	since time.Time
	by    Host
}

// saw keeps what a look from begun to ended has found, and tells whether it has been so for a
// whole term: from the end of the first look to the begin of this one.
func (w *watch) saw(entry Entry, sign Sign, begun, ended time.Time) bool {
	if w.since.IsZero() || w.entry != entry || w.sign != sign {
		*w = watch{entry: entry, sign: sign, since: ended, by: entry.Host}
		return false
	}
	return begun.Sub(w.since) >= Term
}

func (w *watch) held(now time.Time) error {
	return &HeldError{By: w.by, Left: max(0, Term-now.Sub(w.since))}
}

// take makes the lease this host's, and evicts who had it before.
func (k *Keeper) take(ctx context.Context, volume string, current Entry) (*Lease, error) {
	from := current.predecessor()
	mine := current.next(Tenure{Epoch: current.Serial + 1, Host: k.Self}, from)
	begun := k.clock().Now()
	if err := k.Store.Take(ctx, volume, current, mine); err != nil {
		return nil, err
	}
	if from != (Tenure{}) {
		if err := k.Store.Evict(ctx, volume, from); err != nil {
			return nil, fmt.Errorf("evict host %s: %w", from.Host.Name, err)
		}
		settled := mine.next(mine.Tenure, Tenure{})
		begun = k.clock().Now()
		if err := k.Store.Take(ctx, volume, mine, settled); err != nil {
			return nil, err
		}
		mine = settled
	}
	l := k.hold(volume, mine)
	l.extendTo(begun)
	return l, nil
}

// extendTo opens the gate after a step that was taken from begun on.
func (l *Lease) extendTo(begun time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opened(begun)
}

func (k *Keeper) hold(volume string, entry Entry) *Lease {
	l := &Lease{Volume: volume, Tenure: entry.Tenure, keeper: k, entry: entry, changed: make(chan struct{})}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held == nil {
		k.held = map[*Lease]struct{}{}
	}
	k.held[l] = struct{}{}
	return l
}

// Adopt goes on with a lease that an earlier run had. Its gate is shut until Run has confirmed
// that the lease is still this host's.
func (k *Keeper) Adopt(volume string, t Tenure) *Lease {
	return k.hold(volume, Entry{Serial: t.Epoch, Tenure: t})
}

// Run gives signs of life and keeps the gates of what is held open, until the context ends.
func (k *Keeper) Run(ctx context.Context) {
	for ctx.Err() == nil {
		begun := k.clock().Now()
		k.round(ctx)
		pause := max(Every-k.clock().Now().Sub(begun), retry)
		if k.anyShut() {
			pause = retry
		}
		if k.clock().Sleep(ctx, pause) != nil {
			return
		}
	}
}

// round is one sign, and what it means for each lease. A lease whose gate was shut has to be
// confirmed.
func (k *Keeper) round(ctx context.Context) {
	held := k.Held()
	if len(held) == 0 {
		return
	}
	begun := k.clock().Now()
	limited, cancel := context.WithTimeout(ctx, Term)
	defer cancel()
	err := k.Store.Renew(limited)
	if err != nil && !errors.Is(err, ErrForgotten) {
		return
	}
	due := k.due(held, begun)
	for _, l := range held {
		if err != nil {
			l.shut()
		}
		if !l.extend(begun) || l == due {
			_ = l.step(limited) // the next round tries again
		}
	}
}

// due is the lease that is to be confirmed in this round though nothing says that it was taken, nil
// if none is: once in a term one of them, in turn. Should an eviction not have reached every way to
// the server, this ends what the holder still writes. A step costs the server some seven operations.
func (k *Keeper) due(held []*Lease, now time.Time) *Lease {
	if now.Sub(k.asked) < Term {
		return nil
	}
	held = slices.DeleteFunc(slices.Clone(held), func(l *Lease) bool { return l.Over() != nil })
	if len(held) == 0 {
		return nil
	}
	k.asked = now
	return slices.MinFunc(held, func(a, b *Lease) int { return a.stepped().Compare(b.stepped()) })
}

func (k *Keeper) anyShut() bool {
	for _, l := range k.Held() {
		if l.Over() == nil && !l.Open() {
			return true
		}
	}
	return false
}

// Held are the leases that were not released, in the order of volumes and epochs.
func (k *Keeper) Held() []*Lease {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make([]*Lease, 0, len(k.held))
	for l := range k.held {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b *Lease) int {
		return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Tenure.Epoch, b.Tenure.Epoch))
	})
	return all
}

// Forget drops a lease that is over.
func (k *Keeper) Forget(l *Lease) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.held, l)
}

// Release gives a lease back. The caller has unmounted the volume. The gate is shut for good,
// and what may still be on its way is evicted before the lease is free. After an error it is
// to be called again.
func (k *Keeper) Release(ctx context.Context, l *Lease) error {
	l.End(ErrReleased)
	if err := k.Store.Evict(ctx, l.Volume, l.Tenure); err != nil {
		return err
	}
	for {
		l.mu.Lock()
		from := l.entry
		l.mu.Unlock()
		err := k.Store.Take(ctx, l.Volume, from, from.next(Tenure{}, Tenure{}))
		if errors.Is(err, ErrTaken) {
			err = l.catchUp(ctx)
		}
		switch {
		case err == nil, errors.Is(err, ErrReleased), errors.Is(err, ErrTaken):
			k.Forget(l)
			return nil
		case !errors.Is(err, errLater):
			return err
		}
		if err := k.clock().Sleep(ctx, poll); err != nil {
			return err
		}
	}
}

// Preempt frees the lease of a host that is known to be dead, without waiting for its term to
// end. It returns who had it, the zero Host if nobody had.
func (k *Keeper) Preempt(ctx context.Context, volume string) (Host, error) {
	for {
		current, err := k.Store.Look(ctx, volume)
		if err != nil || current.Free() {
			return Host{}, err
		}
		l, err := k.take(ctx, volume, current)
		if errors.Is(err, ErrTaken) {
			continue
		}
		if err != nil {
			return Host{}, err
		}
		if err := k.Release(ctx, l); err != nil {
			k.Forget(l) // nobody comes back for it: without signs of life it is free after a term
			return Host{}, err
		}
		return current.predecessor().Host, nil
	}
}
