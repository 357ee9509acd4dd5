package driver

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// cutAgain is how often an older kernel is told to fail what waits for the server.
const cutAgain = time.Second

// cutOff has all use of a mounted volume fail: its containers get EIO, as from a disk that was
// pulled out, and not silence for ever. It waits for nothing.
func (d *Driver) cutOff(volume string) {
	id, err := tree.IdentityOf(d.mountpoint(volume))
	if err != nil {
		return // not mounted
	}
	err = sunrpc.ErrUnsupported
	if d.rpc != nil {
		err = d.rpc.Shutdown(unix.Major(id.Device), unix.Minor(id.Device))
	}
	if err == nil {
		return
	}
	d.log.WithField("volume", volume).Infof("%v: what waits for the server is failed again and again", err)
	d.spawn(func() { d.keepCutOff(volume, id) })
}

// keepCutOff fails what waits for the server each second (MNT_FORCE, umount(2)), until the volume
// is mounted no more. Its descriptor keeps the mount from going with that.
func (d *Driver) keepCutOff(volume string, id tree.Identity) {
	target := d.mountpoint(volume)
	fd, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	tick := time.NewTicker(cutAgain)
	defer tick.Stop()
	for {
		if now, err := tree.IdentityOf(target); err != nil || now != id {
			return
		}
		if err := unix.Unmount(target, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW); !errors.Is(err, unix.EBUSY) {
			return
		}
		select {
		case <-tick.C:
		case <-d.life.Done():
			return
		}
	}
}
