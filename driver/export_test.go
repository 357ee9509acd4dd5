package driver

import "time"

// AwaitStragglers waits for calls that were left behind on a file system. Where a test
// keeps one from answering, they do not end, and the limit does.
func (d *Driver) AwaitStragglers(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		d.stragglers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
	}
}
