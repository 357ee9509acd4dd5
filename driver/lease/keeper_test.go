package lease_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
)

// shelf is a store of one lease that works, or does not.
type shelf struct {
	mu      sync.Mutex
	entry   lease.Entry
	signs   map[string]int
	self    string
	broken  error
	forgets bool // others have dropped the host; see lease.ErrForgotten
	evicted []lease.Tenure
	stays   string // the host that cannot be evicted
}

func (s *shelf) do(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	return f()
}

func (s *shelf) Look(context.Context, string) (e lease.Entry, err error) {
	err = s.do(func() error { e = s.entry; return nil })
	return e, err
}

func (s *shelf) Take(_ context.Context, _ string, from, to lease.Entry) error {
	return s.do(func() error {
		if s.entry != from {
			return lease.ErrTaken
		}
		s.entry = to
		return nil
	})
}

func (s *shelf) Sign(_ context.Context, _ string, h lease.Host) (sign lease.Sign, err error) {
	err = s.do(func() error { sign = lease.Sign(fmt.Sprint(s.signs[h.ID])); return nil })
	return sign, err
}

func (s *shelf) Renew(context.Context) error {
	return s.do(func() error {
		s.signs[s.self]++
		if s.forgets {
			s.forgets = false
			return lease.ErrForgotten
		}
		return nil
	})
}

func (s *shelf) Evict(_ context.Context, _ string, t lease.Tenure) error {
	return s.do(func() error {
		if t.Host.ID == s.stays {
			return errors.New("no mount target answers")
		}
		s.evicted = append(s.evicted, t)
		return nil
	})
}

func (s *shelf) breakDown(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
}

// stood is an entry of another host.
func stood(serial uint64) lease.Entry {
	return lease.Entry{Serial: serial, Tenure: lease.Tenure{Epoch: serial, Host: hostB}}
}

func newShelf(entry lease.Entry) (*shelf, *lease.Keeper) {
	s := &shelf{entry: entry, signs: map[string]int{}, self: hostA.ID}
	return s, &lease.Keeper{Self: hostA, Store: s}
}

// acquired is a lease that nobody else wants.
func acquired(t *testing.T, k *lease.Keeper) *lease.Lease {
	t.Helper()
	l, err := k.Acquire(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// running has a keeper run until the result is called.
func running(t *testing.T, k *lease.Keeper) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { k.Run(ctx) })
	return func() {
		cancel()
		run.Wait()
	}
}

func TestFreeLeaseIsTakenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newShelf(lease.Entry{Serial: 41})
		begun := time.Now()
		l, err := k.Acquire(t.Context(), "v")
		if err != nil || !l.Open() || time.Since(begun) > 0 || len(s.evicted) > 0 {
			t.Fatalf("%v; after %v, evicted %v", err, time.Since(begun), s.evicted)
		}
		if want := (lease.Tenure{Epoch: 42, Host: hostA}); s.entry.Tenure != want || l.Tenure != want {
			t.Errorf("the lease is %+v, told %+v", s.entry, l.Tenure)
		}
		if err := k.Release(t.Context(), l); err != nil || !s.entry.Free() || l.Open() || len(k.Held()) > 0 {
			t.Errorf("given back: %v, %+v", err, s.entry)
		}
		if err := l.Wait(t.Context()); !errors.Is(err, lease.ErrReleased) {
			t.Errorf("its gate says %v", err)
		}
	})
}

// A container that is stopped on one host and started on another at the same moment.
func TestLeaseThatIsBeingGivenBackIsTakenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newShelf(stood(5))
		const leaving = 70 * time.Millisecond
		time.AfterFunc(leaving, func() { _ = s.do(func() error { s.entry = lease.Entry{Serial: 6}; return nil }) })
		begun := time.Now()
		acquired(t, k)
		if took := time.Since(begun); took > 2*leaving {
			t.Errorf("it is taken after %v", took)
		}
	})
}

// agreeable is a store of any number of leases, in which every step works and is counted.
type agreeable struct {
	*shelf
	mu    sync.Mutex
	steps map[string]int
}

func (a *agreeable) Take(_ context.Context, volume string, _, _ lease.Entry) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.steps[volume]++
	return nil
}

// What holding leases costs does not grow with their number, but each of them is confirmed.
func TestStepsOfAHolderAreRareAndInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newShelf(lease.Entry{})
		a := &agreeable{shelf: s, steps: map[string]int{}}
		k.Store = a
		for _, volume := range []string{"a", "b", "c"} {
			if _, err := k.Acquire(t.Context(), volume); err != nil {
				t.Fatal(err)
			}
		}
		clear(a.steps)
		end := running(t, k)
		time.Sleep(30 * lease.Term)
		end()
		total := 0
		for _, l := range k.Held() {
			if total += a.steps[l.Volume]; a.steps[l.Volume] < 9 || !l.Open() {
				t.Errorf("lease %s: %d steps in 30 terms, open: %v", l.Volume, a.steps[l.Volume], l.Open())
			}
		}
		if total > 31 {
			t.Errorf("%d steps in 30 terms", total)
		}
	})
}

func TestLeaseOfASilentHostIsTakenAfterATerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newShelf(stood(5))
		begun := time.Now()
		_, err := k.Acquire(t.Context(), "v")
		if took := time.Since(begun); err != nil || took < lease.Term || took > lease.Term+time.Second {
			t.Errorf("%v, after %v", err, took)
		}
		if want := []lease.Tenure{{Epoch: 5, Host: hostB}}; fmt.Sprint(s.evicted) != fmt.Sprint(want) {
			t.Errorf("evicted are %v", s.evicted)
		}
	})
}

func TestLeaseOfALivingHostIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newShelf(stood(5))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		var living sync.WaitGroup
		defer living.Wait()
		defer cancel()
		living.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(lease.Every)
				_ = s.do(func() error { s.signs[hostB.ID]++; return nil })
			}
		})
		_, err := k.Acquire(ctx, "v")
		held := new(lease.HeldError)
		if !errors.As(err, &held) || held.By != hostB || held.Left <= lease.Term-lease.Every-time.Second || held.Left > lease.Term {
			t.Errorf("it fails with %v", err)
		}
		if s.entry != stood(5) {
			t.Errorf("the lease is %+v", s.entry)
		}
	})
}

func TestGateShutsBeforeTheTermEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newShelf(lease.Entry{})
		l := acquired(t, k)
		defer running(t, k)()
		time.Sleep(time.Hour)
		if !l.Open() || l.Late() {
			t.Fatal("the gate is shut though the lease is renewed")
		}
		s.breakDown(errors.New("partition"))
		cut := time.Now()
		if err := l.Shut(t.Context()); err != nil || l.Open() || !l.Late() {
			t.Fatal(err)
		}
		if took := time.Since(cut); took >= lease.Term-time.Second || took < lease.Term/2 {
			t.Errorf("it is shut %v after the last sign may have been given", took)
		}
		time.Sleep(time.Minute)
		s.breakDown(nil)
		begun := time.Now()
		if err := l.Wait(t.Context()); err != nil || time.Since(begun) > time.Second {
			t.Errorf("it opens with %v after %v", err, time.Since(begun))
		}
		if s.entry.Serial < 2 {
			t.Error("nobody confirmed that the lease was not taken meanwhile")
		}
	})
}

func TestHolderThatComesBackHearsThatItLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newShelf(lease.Entry{})
		l := acquired(t, k)
		defer running(t, k)()
		s.breakDown(errors.New("partition"))
		time.Sleep(2 * lease.Term)
		s.breakDown(nil)
		_ = s.do(func() error { s.entry = stood(s.entry.Serial + 1); return nil })
		lost := new(lease.LostError)
		if err := l.Wait(t.Context()); !errors.As(err, &lost) || lost.To != hostB.Name || l.Open() {
			t.Errorf("it is told %v", err)
		}
		if err := l.Confirm(t.Context()); !errors.As(err, &lost) {
			t.Errorf("confirming says %v", err)
		}
	})
}

func TestAdoptedLeaseIsConfirmedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine := lease.Tenure{Epoch: 3, Host: hostA}
		s, k := newShelf(lease.Entry{Serial: 9, Tenure: mine})
		l := k.Adopt("v", mine)
		if l.Open() || l.Late() {
			t.Error("it is open, or late, before anybody asked")
		}
		defer running(t, k)()
		if err := l.Wait(t.Context()); err != nil || s.entry.Serial <= 9 || s.entry.Tenure != mine {
			t.Errorf("%v; the lease is %+v", err, s.entry)
		}
	})
}

// Nobody would come back for it, and as a lease that is never given back it would be the host's for ever.
func TestPreemptThatCannotGiveTheLeaseBackLeavesItToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newShelf(stood(41))
		s.stays = hostA.ID
		if _, err := k.Preempt(t.Context(), "v"); err == nil {
			t.Error("no error")
		}
		if held := k.Held(); len(held) > 0 {
			t.Errorf("held are %v", held)
		}
	})
}

func TestLeaseThatCannotBeGivenBackKeepsNoOtherFromBeingAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine := lease.Tenure{Epoch: 41, Host: hostA}
		s, k := newShelf(lease.Entry{Serial: 41, Tenure: mine})
		k.Adopt("a", lease.Tenure{Epoch: 7, Host: hostA}).End(lease.ErrReleased)
		k.Adopt("v", mine)
		end := running(t, k)
		time.Sleep(10 * lease.Term)
		end()
		if steps := s.entry.Serial - 41; steps < 5 {
			t.Errorf("it was asked for %d times in ten terms", steps)
		}
	})
}

func TestPreemptEvictsAndFrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newShelf(stood(5))
		host, err := k.Preempt(t.Context(), "v")
		if err != nil || host != hostB || !s.entry.Free() || len(s.evicted) == 0 || s.evicted[0].Epoch != 5 {
			t.Errorf("%v, %v; the lease is %+v, evicted %v", host, err, s.entry, s.evicted)
		}
		if host, err := k.Preempt(t.Context(), "v"); err != nil || host != (lease.Host{}) {
			t.Errorf("again: %v, %v", host, err)
		}
	})
}

func TestHeldErrorGoesOnCounting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, k := newShelf(stood(5))
		first, cancel := context.WithTimeout(t.Context(), lease.Term/2)
		defer cancel()
		held := new(lease.HeldError)
		if _, err := k.Acquire(first, "v"); !errors.As(err, &held) {
			t.Fatal(err)
		}
		begun := time.Now()
		if _, err := k.Acquire(t.Context(), "v"); err != nil || time.Since(begun) > held.Left+time.Second {
			t.Errorf("the second call waited %v, %v; the first one said %v", time.Since(begun), err, held.Left)
		}
	})
}

func TestHostThatWasDroppedConfirmsBeforeItWritesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newShelf(lease.Entry{})
		l := acquired(t, k)
		_ = s.do(func() error { s.entry, s.forgets = stood(s.entry.Serial+1), true; return nil })
		defer running(t, k)()
		time.Sleep(time.Second)
		lost := new(lease.LostError)
		if l.Open() || !errors.As(l.Over(), &lost) {
			t.Errorf("its gate is open: %v, over: %v", l.Open(), l.Over())
		}
	})
}

// Should a host have been evicted nowhere, it finds out by itself all the same, and soon.
func TestLeaseThatWasTakenUnnoticedIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newShelf(lease.Entry{})
		l := acquired(t, k)
		defer running(t, k)()
		time.Sleep(time.Minute)
		_ = s.do(func() error { s.entry = stood(s.entry.Serial + 1); return nil })
		time.Sleep(lease.Term + lease.Every)
		if l.Open() {
			t.Error("its gate is open")
		}
	})
}
