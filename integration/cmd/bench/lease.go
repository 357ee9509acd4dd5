package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// leaseResults are hostbench's of what an exclusive volume costs.
type leaseResults struct {
	HandOver map[string]summary
	Takeover summary
	Calls    map[string]map[int]float64
}

const handOvers = 30

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

### NFS calls in a second of a host that has volumes mounted

| volumes | shared | exclusive | more than shared | target |
|---|---|---|---|---|
%s
`, shared.Count, cells(shared), cells(exclusive), exclusive.Median-shared.Median,
		r.Takeover.Count, r.Takeover.Median/1000, r.Takeover.P99/1000, r.calls())
}

func (r leaseResults) calls() string {
	var rows strings.Builder
	shared, exclusive := r.Calls["shared"], r.Calls["exclusive"]
	for _, count := range slices.Sorted(maps.Keys(shared)) {
		fmt.Fprintf(&rows, "| %d | %.2f | %.2f | %.2f | 1 |\n", count, shared[count], exclusive[count], exclusive[count]-shared[count])
	}
	return rows.String()
}
