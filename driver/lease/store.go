package lease

import (
	"context"
	"errors"
	"time"
)

const (
	// Term is how long a holder must have given no sign of life until another host may take
	// its lease. Swarm itself needs 15 to 20 s to see that a node is dead, and a call of
	// Docker's has 25 s: a container that is started on another host waits in that one call.
	Term = 15 * time.Second
	// Every is how often a holder gives a sign: two may be lost.
	Every = Term / 3
	// margin is how long before the end of its term a holder's gate shuts. Clocks may run
	// apart by a tenth of the term.
	margin = 2 * time.Second
	// soon is how long is waited before a lease is looked at again that another host holds: it may
	// just be giving it back. Each wait is twice as long as the one before, until it is poll.
	soon = 20 * time.Millisecond
	poll = 250 * time.Millisecond
	// retry is how long a step that failed waits to be tried again.
	retry = 500 * time.Millisecond
)

// ErrTaken reports a step from an entry that is not the lease's any more.
var ErrTaken = errors.New("another host has taken the lease")

// ErrNone reports a volume that has no lease: it was removed.
var ErrNone = errors.New("the volume has no lease")

// ErrForgotten reports a renewal by a host that others had taken for dead: whatever it held may
// be another's.
var ErrForgotten = errors.New("other hosts had taken this one for dead")

// Sign is a host's latest sign of life: it changes with each, and is not compared with a
// clock. "" is that of a host that does not claim to use the volume.
type Sign string

// Store is where leases are. Each call may fail though it has worked, or works later.
type Store interface {
	// Look returns a volume's lease; it may be an older one, however long that is so: a kernel's memory
	// of a directory can miss a change.
	Look(ctx context.Context, volume string) (Entry, error)
	// Take makes the step from one entry to another, atomically. It fails with [ErrTaken] if
	// the lease is not as from says; Look then finds a newer one than that.
	Take(ctx context.Context, volume string, from, to Entry) error
	// Sign returns a host's sign of life as one that uses the volume. It may be one of a moment ago. One
	// that is older than what the margin leaves, when clocks run apart, can make a host that lives look
	// dead: then its gate is open, and only the eviction keeps it from writing.
	Sign(ctx context.Context, volume string, host Host) (Sign, error)
	// Renew gives this host's sign for all volumes that it uses. It fails with [ErrForgotten] if
	// the sign was given after others had dropped this host.
	Renew(ctx context.Context) error
	// Evict has the server forget a tenure's NFS client: nothing that it has sent and that
	// is not done by then is done after. It may make no new session unless its holder
	// confirms that.
	Evict(ctx context.Context, volume string, t Tenure) error
}

// Clock is a monotonic clock.
type Clock interface {
	Now() time.Time
	// Sleep returns the context's error if that ends first.
	Sleep(ctx context.Context, d time.Duration) error
}

// wall is the machine's clock.
type wall struct{}

func (wall) Now() time.Time { return time.Now() }

func (wall) Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
