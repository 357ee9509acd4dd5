package driver

import (
	"context"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

const (
	// settlingFor is how long after a volume was made its own access point may still be unknown to a mount
	// target, which then refuses whoever comes by it; AWS's mount helper tries again as well.
	settlingFor = time.Minute
	// settlingPatience is for how long a call tries, settlingPause how long it waits between two tries.
	settlingPatience = 10 * time.Second
	settlingPause    = time.Second
)

// openVolume opens a volume's directory. A refusal by an access point that was made just now is no answer yet.
func (t *transport) openVolume(ctx context.Context, record catalog.Record) (*tree.Dir, *session, error) {
	mayBeNew := record.AccessPointID != "" && time.Since(record.Created).Abs() < settlingFor
	for begun := time.Now(); ; {
		dir, s, err := t.openDir(ctx, pathOn(record))
		if !mayBeNew || !ofOneIdentity(err) || time.Since(begun) >= settlingPatience {
			return dir, s, err
		}
		pause := time.NewTimer(settlingPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, nil, err
		}
	}
}
