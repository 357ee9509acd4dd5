package proxy

import "time"

const (
	holdFirst   = 30 * time.Second
	holdLongest = 10 * time.Minute
	// holdForget is how long a target is up until its past is forgotten.
	holdForget = 10 * time.Minute
)

// hold keeps a file system from going back at once to a target that it had to
// leave. It concerns return, never flight.
type hold struct {
	until time.Time
	last  time.Duration
}

// leave starts a hold, twice as long as the one before.
func (h *hold) leave(now time.Time) {
	h.last = min(max(2*h.last, holdFirst), holdLongest)
	h.until = now.Add(h.last)
}

func (h *hold) holds(now time.Time) bool { return now.Before(h.until) }

// wasUp tells of a time without failures that has ended.
func (h *hold) wasUp(took time.Duration) {
	if took >= holdForget {
		*h = hold{}
	}
}
