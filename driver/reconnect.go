package driver

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"
)

// reconnectLimit is how long the kernel may take to leave a connection.
const reconnectLimit = 30 * time.Second

// reconnect has the kernel's NFS clients leave the connections that an earlier worker had taken and has
// not closed: it was killed, and one of its threads waits for an answer on one of them. Nobody reads
// them any more, and what the kernel wants it sends again.
func (d *Driver) reconnect() {
	ctx, cancel := context.WithTimeout(d.life, reconnectLimit)
	defer cancel()
	if err := d.reconnectRelays(ctx); err != nil {
		d.log.Errorf("the kernel's connections to an earlier worker's relays: %v; containers may wait for minutes", err)
	}
}

func (d *Driver) reconnectRelays(ctx context.Context) error {
	relayed := map[uint16]bool{}
	for _, one := range d.relays.all() {
		relayed[one.addr.Port()] = true
	}
	if d.rpc == nil || len(relayed) == 0 {
		return nil
	}
	transports, err := d.rpc.Transports()
	if err != nil {
		return err
	}
	// All at once: one may be busy for as long as there is time.
	var moving sync.WaitGroup
	failed := make([]error, len(transports))
	for i, one := range transports {
		if !one.Connected || !one.Server.IsLoopback() || !relayed[one.ServerPort] {
			continue
		}
		moving.Go(func() {
			if err := d.rpc.Move(ctx, one.Name, one.Server); !errors.Is(err, fs.ErrNotExist) { // it has ended meanwhile
				failed[i] = err
			}
		})
	}
	moving.Wait()
	return errors.Join(failed...)
}
