package keeper

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// reaper waits for all children, whoever started them: process 1 inherits others', and a worker that
// cannot end is left to it. The zero value is ready.
type reaper struct {
	mu      sync.Mutex // guards the following fields
	awaited map[int]chan<- unix.WaitStatus
	running bool
}

// start has a child started, perhaps beside one that has not ended, and returns where its end is told. A
// start that gives no process is passed on as it is.
func (r *reaper) start(start func(beside bool) (*os.Process, error)) (*os.Process, <-chan unix.WaitStatus, error) {
	r.mu.Lock() // so that no end is told before it is awaited
	defer r.mu.Unlock()
	process, err := start(len(r.awaited) > 0)
	if err != nil || process == nil {
		return nil, nil, err
	}
	ended := make(chan unix.WaitStatus, 1)
	if r.awaited == nil {
		r.awaited = map[int]chan<- unix.WaitStatus{}
	}
	r.awaited[process.Pid] = ended
	if !r.running {
		r.running = true
		go r.reap()
	}
	return process, ended, nil
}

// reap runs as long as there are children.
func (r *reaper) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if !r.told(pid, status, err) {
			return
		}
	}
}

// told passes an end on, and tells whether there is more to wait for.
func (r *reaper) told(pid int, status unix.WaitStatus, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil { // no child was left
		r.running = len(r.awaited) > 0 // but one has been started since
		return r.running
	}
	if ended := r.awaited[pid]; ended != nil {
		delete(r.awaited, pid)
		ended <- status
	}
	return true
}
