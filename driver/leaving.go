package driver

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// leaveLimit is how long file systems may take to say good-bye.
const leaveLimit = 2 * time.Second

// takeLeave unmounts what nobody uses, as long as the relays run: with the last mount of a
// server the kernel takes leave of it, and whoever unmounts later, as Docker does when the
// plugin is disabled, would wait minutes for a relay that is no more. A dead file system
// keeps no other from it.
func (d *Driver) takeLeave() {
	unused := d.unused()
	var leaving sync.WaitGroup
	for _, f := range d.allFileSystems() {
		leaving.Add(1)
		d.stragglers.Go(func() {
			defer leaving.Done()
			f.takeLeave(unused[f])
		})
	}
	left := make(chan struct{})
	d.stragglers.Go(func() {
		leaving.Wait()
		close(left)
	})
	over := time.NewTimer(leaveLimit)
	defer over.Stop()
	select {
	case <-left:
	case <-over.C:
		d.failSilent()
	}
}

// failSilent has all use of the mounts fail that are still there although no container uses a volume of them: their server
// does not answer, and the end of the process, or Docker's unmount after it, would wait minutes for it.
func (d *Driver) failSilent() {
	if d.rpc == nil {
		return
	}
	for _, s := range d.silentSessions() {
		if err := d.rpc.Shutdown(s.device); err != nil {
			d.log.Warnf("%s does not answer, and its unmount may take minutes: %v", s.serverNow(), err)
		}
	}
}

// silentSessions are those whose mounts are still there and that nothing in use shares: neither the
// superblock, nor the kernel's NFS client, which superblocks of one server's address share and which is
// shut down with each of them (shutdown_store in fs/nfs/sysfs.c).
func (d *Driver) silentSessions() []*session {
	var silent []*session
	devices, servers := map[uint64]bool{}, map[netip.AddrPort]bool{} // in use
	for _, f := range d.allFileSystems() {
		inUse := f.usedTransports()
		// What has no session in this run may share the NFS client of any that goes to the same server.
		unseen := slices.ContainsFunc(slices.Collect(maps.Keys(inUse)), func(t *transport) bool { return t.established() == nil })
		for t, s := range f.establishedSessions() {
			switch {
			case inUse[t] || unseen && s.path == viaDirect:
				devices[s.device], servers[s.serverNow()] = true, true
			case !isOver(s.root.Finished()):
				silent = append(silent, s)
			}
		}
	}
	return slices.DeleteFunc(silent, func(s *session) bool { return devices[s.device] || servers[s.serverNow()] })
}

func isOver(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// usedTransports are those that a container's volume is on, counted or not: after a docker plugin
// disable -f containers go on that nobody counts.
func (f *fileSystem) usedTransports() map[*transport]bool {
	used := map[*transport]bool{}
	if f.d.uses.table == nil || f.d.uses.uncounted == nil {
		return used
	}
	for _, k := range f.d.inUse() {
		if on, err := f.d.fileSystemOf(k); err != nil || on != f {
			continue
		}
		if t := f.mountedBy(k.Record); t != nil {
			used[t] = true
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.holdings {
		if h.adopted {
			used[h.transport] = true
		}
	}
	return used
}

// unused are the volumes that are mounted and not used.
func (d *Driver) unused() map[*fileSystem][]string {
	unused := map[*fileSystem][]string{}
	if d.uses.table == nil || d.uses.uncounted == nil {
		return unused
	}
	for name, u := range d.uses.table.All() {
		k, known := d.known.Get(name)
		if !known || u.total() > 0 {
			continue
		}
		if f, err := d.fileSystemOf(k); err == nil {
			unused[f] = append(unused[f], name)
		}
	}
	return unused
}

// takeLeave unmounts the volumes and the root mounts. A call under way on a volume has its
// turn, and then the volume is left.
func (f *fileSystem) takeLeave(unused []string) {
	var all sync.WaitGroup
	for _, name := range unused {
		all.Go(func() {
			release, err := f.d.turns.take(f.d.life, name)
			if err != nil {
				return
			}
			defer release()
			f.d.withdraw(f.d.life, name)
			if err := f.d.detach(name, false); err != nil {
				f.d.log.WithField("volume", name).Errorf("detach: %v", err)
			}
		})
	}
	all.Wait()
	f.awaitLeaving() // leases are given back by what is retired next
	for _, name := range unused {
		f.d.withdraw(f.d.life, name)
	}
	sessions := f.sessions()
	for _, s := range sessions {
		s.retire()
	}
	for _, s := range sessions {
		<-s.root.Finished()
	}
}
