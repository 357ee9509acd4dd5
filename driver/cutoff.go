package driver

import (
	"errors"
	"time"

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

// seeOff keeps the relay of a lease that was lost, which gives errors to the kernel's NFS client, until
// that is gone. A start before then finds the lease lost anew.
func (h *holding) seeOff() {
	tick := time.NewTicker(orphanCheck)
	defer tick.Stop()
	for idle := time.Duration(0); !h.isDeserted(idle, false); {
		select {
		case <-tick.C:
		case <-h.f.d.life.Done():
			return
		}
		if idle += orphanCheck; h.isConnected() {
			h.cutOffConnected()
			idle = 0
		}
	}
	h.f.d.relays.close(h.transport.identity(viaRelay))
}

// cutOffConnected is cutOff for what is mounted through the relay and not at the volume's mount point: containers have
// such mounts after docker plugin disable -f.
func (h *holding) cutOffConnected() {
	one, table := h.f.d.relays.find(h.transport.identity(viaRelay)), h.f.d.rpc
	if one == nil || table == nil {
		return
	}
	if err := table.ShutdownConnected(one.addr); err != nil && !errors.Is(err, sunrpc.ErrNoShutdown) {
		h.f.d.log.WithField("volume", h.volume).Debugf("shut down what is mounted through the relay at %s: %v; it is tried again", one.addr, err)
	}
}
