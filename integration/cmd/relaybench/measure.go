package main

import (
	"fmt"
	"os"
	"slices"
	"time"
)

// crowds are the numbers of idle connections.
var crowds = []int{10, 100, 1000, 5000} //nolint:gochecknoglobals // a table

// settle is how long a relay has to let go of what idle connections do not need.
const settle = 5 * time.Second

// turn is one round of one peer.
type turn struct{ read, readCPU, write, writeCPU, p50, p99 float64 }

// measure lets the peers take turns.
func (b *bench) measure(peers []peer) ([]Result, error) {
	turns := make([][]turn, len(peers))
	for round := range b.rounds {
		for i := range peers {
			// Each begins a round once: who comes first is not always the same.
			i = (i + round) % len(peers)
			one, err := b.turn(peers[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w\n%s", peers[i].name, err, b.log.String())
			}
			turns[i] = append(turns[i], one)
		}
		fmt.Fprintf(os.Stderr, "relaybench: round %d of %d\n", round+1, b.rounds)
	}
	var results []Result
	for i, p := range peers {
		median := func(of func(turn) float64) float64 {
			var all []float64
			for _, one := range turns[i] {
				all = append(all, of(one))
			}
			slices.Sort(all)
			return all[len(all)/2]
		}
		results = append(results, Result{
			Peer: p.name,
			Read: median(func(t turn) float64 { return t.read }), ReadCPU: median(func(t turn) float64 { return t.readCPU }),
			Write: median(func(t turn) float64 { return t.write }), WriteCPU: median(func(t turn) float64 { return t.writeCPU }),
			P50: median(func(t turn) float64 { return t.p50 }), P99: median(func(t turn) float64 { return t.p99 }),
		})
	}
	return results, nil
}

func (b *bench) turn(p peer) (t turn, err error) {
	g, addr, err := b.begin(p)
	if err != nil {
		return t, err
	}
	defer g.stop()
	if t.read, t.readCPU, err = b.transfer(g, addr, false); err != nil {
		return t, err
	}
	if t.write, t.writeCPU, err = b.transfer(g, addr, true); err != nil {
		return t, err
	}
	p50, p99, err := pingPong(addr, b.lasts)
	t.p50, t.p99 = micros(p50), micros(p99)
	return t, err
}

// transfer returns MiB/s and the peer's seconds of processor time for a GiB.
func (b *bench) transfer(g group, addr string, write bool) (rate, cpu float64, err error) {
	before, err := g.cpu()
	if err != nil {
		return 0, 0, err
	}
	bytes, took, err := bulk(addr, write, b.lasts)
	if err != nil {
		return 0, 0, err
	}
	after, err := g.cpu()
	mib := float64(bytes) / (1 << 20)
	return mib / took.Seconds(), (after - before).Seconds() / (mib / 1024), err
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// crowd measures one peer with more and more idle connections.
func (b *bench) crowd(p peer) (c Crowd, err error) {
	g, addr, err := b.begin(p)
	if err != nil {
		return c, err
	}
	defer g.stop()
	c.Peer = p.name
	have := 0
	for _, count := range crowds {
		count = min(count, b.room)
		conns, err := open(addr, count-have)
		if err != nil {
			return c, err
		}
		defer closeAll(conns)
		have = count
		time.Sleep(settle)
		mib, err := g.memory()
		if err != nil {
			return c, err
		}
		p50, _, err := pingPong(addr, b.lasts)
		if err != nil {
			return c, err
		}
		c.Counts, c.MiB, c.P50 = append(c.Counts, count), append(c.MiB, mib), append(c.P50, micros(p50))
		fmt.Fprintf(os.Stderr, "relaybench: %s: %d connections\n", p.name, count)
	}
	return c, nil
}
