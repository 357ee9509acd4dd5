package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

// Answer is what a target said when it was asked.
type Answer struct {
	Target proxy.Target
	RTT    time.Duration
	// Err is why there is none.
	Err error
}

// checkLimit is how long [Gateway.Check] waits for an answer, as the health checks do.
const checkLimit = 3 * time.Second

// Check asks each target once, all at the same time, and returns the answers in the order
// of the targets. It is for a look before [Gateway.Serve].
func (g *Gateway) Check(ctx context.Context) []Answer {
	limit := checkLimit
	if g.options.Knobs.Timeout > 0 {
		limit = g.options.Knobs.Timeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answers := make([]Answer, len(g.options.Targets))
	var asking sync.WaitGroup
	for i, target := range g.options.Targets {
		asking.Go(func() {
			rtt, err := g.ask(ctx, target.Addr)
			answers[i] = Answer{target, rtt, err}
		})
	}
	asking.Wait()
	return answers
}
