package keeper

import (
	"context"
	"net"
	"time"
)

// RunWithoutPauses is Run for tests with many crashes.
func RunWithoutPauses(ctx context.Context, options Options) (int, error) {
	return run(ctx, options, backoff{})
}

// Parent is the connection on which a worker can say what it likes.
func (k *Kept) Parent() *net.UnixConn { return k.parent }

// Pauses gives the pauses after crashes at the given times since the first one.
func Pauses(crashes ...time.Duration) []time.Duration {
	b := backoff{longest: longestPause}
	start := time.Unix(1e9, 0)
	var pauses []time.Duration
	for _, crash := range crashes {
		pauses = append(pauses, b.crashed(start.Add(crash)))
	}
	return pauses
}

const (
	MaxKept     = maxKept
	MaxName     = maxName
	MaxQuestion = maxQuestion
)

// ParseQuestion reads a worker's message and writes it again.
func ParseQuestion(message []byte) ([]byte, error) {
	q, err := parseQuestion(message)
	return q.message(), err
}
