package driver

import (
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

const (
	// recoveryTime is how long it may take until the kernel finds out whether a mount target
	// knows its client. The next request tells; a client with nothing to ask renews its lease
	// after two thirds of it (nfs4_schedule_state_renewal), 60 s of the 90 that are usual.
	recoveryTime  = 90 * time.Second
	recoveryCheck = 3 * time.Second
)

// watchRecovery sees after a move whether the mount target knew this host's NFS client. One
// that did not knows nothing of the locks that its containers held; the kernel reclaims what
// it may, and who held what is lost gets EIO. That must not pass unnoticed.
func (f *fileSystem) watchRecovery(move proxy.Move) {
	number := f.moves.Add(1)
	for _, s := range f.sessions() {
		if before, err := s.root.Introductions(); err == nil {
			f.d.spawn(func() { f.awaitRecovery(s, before, move, number) })
		}
	}
}

// awaitRecovery ends early when the root mount does, which it does not keep, and at the
// next move, which has its own.
func (f *fileSystem) awaitRecovery(s *session, before int, move proxy.Move, number uint64) {
	tick := time.NewTicker(recoveryCheck)
	defer tick.Stop()
	for begun := time.Now(); time.Since(begun) < recoveryTime && f.moves.Load() == number; {
		select {
		case <-tick.C:
		case <-f.d.life.Done():
			return
		}
		now, err := s.root.Introductions()
		if err != nil {
			return
		}
		if now > before {
			f.recoveries.Add(1)
			f.d.log.WithField("filesystem", f.spec).Warnf("mount target %s did not know this host's NFS client as %s did: "+
				"locks that containers held may be lost, and what relied on them gets input/output errors; restart those containers", move.To, move.From)
			return
		}
	}
}
