package driver

import (
	"context"
	"errors"
	"fmt"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

// Preempt frees an exclusive volume from a host that is known to be dead, without waiting for the
// end of its lease's term, and returns that host's name. Should it live after all, its containers
// get errors. A volume that no host has is no error, and the name is then empty.
func (d *Driver) Preempt(ctx context.Context, name string) (host string, err error) {
	if err := catalog.CheckName(name); err != nil {
		return "", fail("preempt", name, invalid{err})
	}
	release, err := d.takeTurn(ctx, name)
	if err != nil {
		return "", fail("preempt", name, err)
	}
	defer release()
	err = d.whereItIs(ctx, name, func(f *fileSystem) error {
		record, err := f.record(ctx, name)
		if err != nil {
			return err
		}
		if !f.isFenced(record) {
			return conflict{fmt.Errorf("it is no exclusive volume of a file server: access is %s, on %s", record.Options.Access, f.spec)}
		}
		if h := f.holdingOf(name); h != nil && h.lease.Over() == nil {
			return conflict{errors.New("this host itself has it: stop its container here; if none runs, a new one on this host gets the volume")}
		}
		if err := f.leaseStore.make(ctx, record.LeaseKey()); err != nil {
			return err
		}
		was, err := f.leases.Preempt(ctx, record.LeaseKey())
		host = was.Name
		return err
	})
	if err == nil && host != "" {
		d.log.WithField("volume", name).Warnf("taken from host %s by command", host)
	}
	return host, fail("preempt", name, err)
}

// leaseText tells how it is about an exclusive volume's lease, empty for other volumes.
func (d *Driver) leaseText(f *fileSystem, record catalog.Record) string {
	switch h := f.holdingOf(record.Name); {
	case !isExclusive(record):
		return ""
	case !f.isFenced(record):
		return "none: a local directory is this host's own, and nothing keeps another host that shares it from writing"
	case h == nil:
		return "not this host's"
	case h.lease.Open():
		return "this host's"
	default:
		return "this host's, though it " + notRenewed
	}
}

const notRenewed = "could not be renewed in time: nothing is written until it is"

// whyShut is why nothing is written to an exclusive volume that this host has.
func (d *Driver) whyShut(name string, k knowledge) string {
	f, err := d.fileSystemOf(k)
	if err != nil {
		return ""
	}
	if h := f.holdingOf(name); h != nil && h.lease.Late() {
		return "its lease " + notRenewed
	}
	return ""
}
