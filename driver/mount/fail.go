package mount

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// failEvery is how often what waits for a server is failed.
const failEvery = time.Second

// KeepFailing fails what waits for the server of a mount with EIO (MNT_FORCE, umount(2)), each
// second until the context ends, or something else is at the target than what has that
// identity. The mount stays.
func KeepFailing(ctx context.Context, target string, id tree.Identity) {
	keepFailing(ctx, target, id, unix.Unmount)
}

func keepFailing(ctx context.Context, target string, id tree.Identity, unmount func(target string, flags int) error) {
	// The descriptor makes the mount busy: it would go with the first call.
	fd, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	tick := time.NewTicker(failEvery)
	defer tick.Stop()
	for {
		if now, err := tree.IdentityOf(target); err != nil || now != id {
			return
		}
		if err := unmount(target, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW); !errors.Is(err, unix.EBUSY) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
