package driver

import (
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

// recoveryTime is how long after a move the kernel has found out whether the mount target
// knows its client: the next request tells, and one that has nothing to ask renews its
// lease within two thirds of that, which no lock outlives either.
const recoveryTime = 15 * time.Second

// watchRecovery sees after a move whether the mount target knew this host's NFS client. One
// that did not knows nothing of the locks that its containers held; the kernel reclaims what
// it may, and who held what is lost gets EIO. That must not pass unnoticed.
func (f *fileSystem) watchRecovery(move proxy.Move) {
	for _, s := range f.sessions() {
		before, err := s.root.Introductions()
		if err != nil || !s.use() {
			continue
		}
		begun := f.d.spawn(func() {
			defer s.release()
			select {
			case <-time.After(recoveryTime):
			case <-f.d.life.Done():
				return
			}
			after, err := s.root.Introductions()
			if err != nil || after <= before {
				return
			}
			f.recoveries.Add(1)
			f.d.log.WithField("filesystem", f.spec).Warnf("mount target %s did not know this host's NFS client as %s did: "+
				"locks that containers held may be lost, and what relied on them gets input/output errors; restart those containers", move.To, move.From)
		})
		if !begun {
			s.release()
		}
	}
}
