package driver

import "sync/atomic"

// stragglers are goroutines that wait in the kernel for a server and end only when it answers. The
// driver's end does not wait for them, so they are counted and no more.
type stragglers struct{ running atomic.Int64 }

// Go runs a call as one of them.
func (s *stragglers) Go(call func()) {
	s.running.Add(1)
	go func() {
		defer s.running.Add(-1)
		call()
	}()
}
