package driver

import (
	"context"
	"fmt"
	"sync"
)

// turns lets calls for one volume follow each other, or for one relay, each waiting no
// longer than its context. Calls for different ones do not meet. The zero value works.
type turns struct {
	mu      sync.Mutex // guards waiting; held for moments only
	waiting map[string]*turn
}

type turn struct {
	taken chan struct{}
	users int // holder and waiters; at 0 the turn is forgotten
}

// take waits for the turn of what has that name. The caller gives it back by release.
func (t *turns) take(ctx context.Context, name string) (release func(), err error) {
	t.mu.Lock()
	if t.waiting == nil {
		t.waiting = map[string]*turn{}
	}
	current := t.waiting[name]
	if current == nil {
		current = &turn{taken: make(chan struct{}, 1)}
		t.waiting[name] = current
	}
	current.users++
	t.mu.Unlock()
	select {
	case current.taken <- struct{}{}:
		return func() {
			<-current.taken
			t.leave(name, current)
		}, nil
	case <-ctx.Done():
		t.leave(name, current)
		return nil, ctx.Err()
	}
}

// takeTurn is take with an error for people.
func (d *Driver) takeTurn(ctx context.Context, name string) (release func(), err error) {
	release, err = d.turns.take(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("another call is still at work on this volume, try again: %w", err)
	}
	return release, nil
}

func (t *turns) leave(name string, current *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if current.users--; current.users == 0 {
		delete(t.waiting, name)
	}
}
