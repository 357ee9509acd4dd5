package driver

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

// deletesPerSecond is how fast a host deletes in the background: a file system's operations are
// shared with its containers and with all other hosts. The first deletesAtOnce have no such limit.
const (
	deletesPerSecond = 200
	deletesAtOnce    = 1000
)

// deletesShare is the part of the time, one of so many, that a host deletes in the background: where an operation takes
// long, because the file system or the host is busy, containers' own would wait for it. No pause is longer than
// deletesPause, after a server that was silent say.
const (
	deletesShare = 4
	deletesPause = time.Second
)

// pace lets a deletion in the background go on.
type pace struct {
	limit   *rate.Limiter
	resumed time.Time // when it last could
}

// next waits until the next file may be deleted.
func (p *pace) next(ctx context.Context) error {
	pause := time.NewTimer(min((deletesShare-1)*time.Since(p.resumed), deletesPause))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	err := p.limit.Wait(ctx)
	p.resumed = time.Now()
	return err
}
