package main

import (
	"fmt"
	"strings"
)

// leaseResults are hostbench's of what an exclusive volume costs.
type leaseResults struct {
	HandOver map[string]summary
	Takeover summary
	Calls    map[int]float64
}

const (
	handOvers = 30
	// heldVolumes is how many exclusive volumes hostbench has a host hold at most.
	heldVolumes = 20
)

func (b *bench) lease() error {
	return b.measure(&b.results.lease, "exclusive", fmt.Sprintf("-rounds %d", handOvers))
}

func (r leaseResults) table(p *strings.Builder) {
	shared, exclusive := r.HandOver["shared"], r.HandOver["exclusive"]
	fmt.Fprintf(p, `## Exclusive volumes

Two plugins on one host, which are two hosts to each other.

### From the last Unmount on one host to the end of the Mount on another (%d rounds, milliseconds)

| volume | median | p99 | more than shared | target |
|---|---|---|---|---|
| shared | %s | | |
| exclusive | %s | %.0f | 200 |

### Mount on another host of a volume whose host is stopped (%d rounds, seconds)

| median | longest | target |
|---|---|---|
| %.1f | %.1f | 17: the term of 15 s and 2 s |

### NFS calls in a second, beyond those of a host without an exclusive volume

| exclusive volumes on the host | calls | target |
|---|---|---|
| 1 | %.2f | 1 |
| %d | %.2f | 1 |

`, shared.Count, cells(shared), cells(exclusive), exclusive.Median-shared.Median,
		r.Takeover.Count, r.Takeover.Median/1000, r.Takeover.P99/1000,
		r.Calls[1]-r.Calls[0], heldVolumes, r.Calls[heldVolumes]-r.Calls[0])
}
