package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often a lock that another run holds is tried again.
const lockPoll = 200 * time.Millisecond

// lockFile locks the file at path, exclusively (unix.LOCK_EX) for who changes
// what it guards, shared (unix.LOCK_SH) for who uses it. The lock lasts until the
// returned file is closed or the process ends. It calls waiting once if another
// run holds the lock.
func lockFile(ctx context.Context, path string, how int, waiting func()) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if first && waiting != nil {
			waiting()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another run that holds %s: %w", path, ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}
