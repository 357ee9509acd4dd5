package driver

import (
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// cutOff has all use of a mounted volume fail: its containers get EIO, as from a disk that was
// pulled out, and not silence for ever. It waits for nothing.
func (d *Driver) cutOff(volume string) {
	target := d.mountpoint(volume)
	id, err := tree.IdentityOf(target)
	if err != nil {
		return // not mounted
	}
	err = sunrpc.ErrUnsupported
	if d.rpc != nil {
		err = d.rpc.Shutdown(id.Device)
	}
	if err != nil {
		d.log.WithField("volume", volume).Infof("%v: what waits for the server is failed again and again", err)
		d.spawn(func() { mount.KeepFailing(d.life, target, id) })
	}
}
