package keeper

import "time"

const (
	// crashesFollow is how soon after a crash another one is the same trouble.
	crashesFollow = 5 * time.Second
	firstPause    = 50 * time.Millisecond
	longestPause  = time.Second
)

// backoff says how long to wait after a crash: not at all after the first, then
// ever longer while crashes follow each other, up to longest.
type backoff struct {
	longest time.Duration
	last    time.Time
	pause   time.Duration
}

func (b *backoff) crashed(now time.Time) time.Duration {
	if b.last.IsZero() || now.Sub(b.last) >= crashesFollow {
		b.pause = 0
	} else {
		b.pause = min(max(firstPause, 2*b.pause), b.longest)
	}
	b.last = now
	return b.pause
}
