package driver

import (
	"errors"
	"net/netip"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// cutOff has all use of a volume fail that is mounted through a relay: its containers get EIO, as from a disk that
// was pulled out, and not silence for ever. It waits for nothing. What another lease, or none, has mounted
// there is left alone.
func (d *Driver) cutOff(volume string, relay netip.AddrPort) {
	target := d.mountpoint(volume)
	id, err := tree.IdentityOf(target)
	if err != nil {
		return // not mounted
	}
	server, err := mount.ServerAt(target, id.Device)
	if err != nil {
		d.log.WithField("volume", volume).Errorf("by which relay it is mounted cannot be told: %v; its containers may wait", err)
	}
	if server != relay {
		return
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
// that is gone.
func (r *relays) seeOff(identity string) {
	tick := time.NewTicker(orphanCheck)
	defer tick.Stop()
	for idle := time.Duration(0); ; {
		select {
		case <-tick.C:
		case <-r.d.life.Done():
			return // the next start goes on
		}
		_, kept := r.endpoints.Get(identity)
		switch {
		case !kept:
			return // there was none, or it is closed
		case r.find(identity) == nil:
			continue // it waits for its port
		case r.isConnected(identity):
			r.cutOffConnected(identity)
			idle = 0
		default:
			idle += orphanCheck
		}
		if gone, seen := r.clientIsGone(identity); idle >= orphanGone && gone || idle >= orphanIdle && !seen {
			r.close(identity)
			return
		}
	}
}

// cutOffConnected is cutOff for what is mounted through the relay and not at the volume's mount point: containers have
// such mounts after docker plugin disable -f.
func (r *relays) cutOffConnected(identity string) {
	one, table := r.find(identity), r.d.rpc
	if one == nil || table == nil {
		return
	}
	if err := table.ShutdownConnected(one.addr); err != nil && !errors.Is(err, sunrpc.ErrNoShutdown) {
		r.d.log.WithField("filesystem", one.fs.spec).Debugf("shut down what is mounted through the relay at %s: %v; it is tried again", one.addr, err)
	}
}
