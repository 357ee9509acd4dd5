package lease_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
)

// fault has one bad thing happen to a host.
func (n *node) fault() {
	w := n.weather
	var kinds []func()
	for _, kind := range []struct {
		on bool
		do func()
	}{
		{w.pauses, func() { n.stand(n.between(time.Second, 2*time.Minute)) }},
		{w.stops, func() { n.frozen = max(n.frozen, n.now+n.between(time.Second, 2*time.Minute)) }},
		{w.cuts, func() { n.cut = max(n.cut, n.now+n.between(time.Second, 3*time.Minute)) }},
		{w.crashes, func() { n.crash() }},
		{w.reboots, func() { n.held, n.client = nil, 0; n.crash() }},
	} {
		if kind.on {
			kinds = append(kinds, kind.do)
		}
	}
	if len(kinds) > 0 {
		kinds[n.random.IntN(len(kinds))]()
	}
}

func (n *node) crash() {
	for _, t := range n.tasks {
		t.kill()
	}
	n.tasks = nil
	if !n.down {
		n.down = true
		n.at(n.between(0, 30*time.Second), n.live)
	}
}

const (
	hosts  = 3
	lasts  = 8 * time.Minute
	enough = 100_000
)

// simulate is one run.
func simulate(seed uint64, weather weather, broken broken) *world {
	w := &world{
		sim: newSim(seed), weather: weather, broken: broken,
		signs: map[string]int{}, sessions: map[lease.Tenure]int{}, ends: map[lease.Tenure]time.Time{},
	}
	for i := range hosts {
		id := string(rune('a' + i))
		n := &node{world: w, self: lease.Host{ID: id, Name: "host-" + id}, rate: 1, knownOf: map[string]*memory[lease.Sign]{}}
		if weather.drift > 0 {
			n.rate = 1 + float64(w.random.IntN(2*weather.drift+1)-weather.drift)/1000
		}
		w.nodes = append(w.nodes, n)
		n.live()
		for range weather.faults {
			w.at(w.between(0, lasts), n.fault)
		}
	}
	w.run(lasts)
	return w
}

// rough is everything at once; the eviction is what holds then. In calm weather messages are
// lost and hosts cut off, but what arrives is not late, and a sign is not older than what the margin leaves
// when clocks run apart: there the gate alone holds.
var (
	rough = weather{
		slow: 2 * time.Second, drift: 100, losses: 10, late: true, faults: 4,
		pauses: true, stops: true, cuts: true, crashes: true, reboots: true,
		oldLooks: time.Minute, oldSigns: time.Minute, preempts: 10,
	}
	// storm has a host stop, or its plugin start again, each quarter of a minute.
	storm = weather{slow: time.Second, losses: 8, late: true, faults: 10, stops: true, crashes: true}
	calm  = weather{
		slow: 300 * time.Millisecond, drift: 20, losses: 20, faults: 4, cuts: true, crashes: true, reboots: true,
		oldLooks: time.Minute, oldSigns: time.Second,
	}
	// still has clocks stand still; what is asked is answered.
	still = weather{
		slow: 500 * time.Millisecond, drift: 20, faults: 6, pauses: true, crashes: true, reboots: true,
		oldLooks: time.Minute, oldSigns: time.Minute, preempts: 10,
	}
)

// withLies is calm weather in which hosts that live are preempted, and signs are older than the margin
// allows: the gate alone is not made for either.
func withLies(w weather) weather {
	w.preempts, w.oldSigns = 10, time.Minute
	return w
}

// schedules is how many runs: LEASE_SCHEDULES, else a few.
func schedules(t *testing.T, few int) int {
	text := os.Getenv("LEASE_SCHEDULES")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAtMostOneHostWrites(t *testing.T) {
	for _, row := range []struct {
		name    string
		weather weather
		broken  broken
	}{
		{"with both fences, whatever happens", rough, broken{}},
		{"with the gate alone, if nothing is late", calm, broken{noEviction: true}},
		{"with both fences in calm weather", withLies(calm), broken{}},
		{"but for a term, if clocks stand still and evictions reach nobody", still, broken{noEviction: true, lingers: true}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var all tally
			runs := schedules(t, 1000)
			for seed := range runs {
				w := simulate(uint64(seed), row.weather, row.broken)
				if w.wrong != nil {
					t.Fatalf("seed %d: %s", seed, w.wrong[0])
				}
				all.add(w.tally)
			}
			t.Logf("%d schedules: %v", runs, all)
			if all.tenures < 3*runs || all.writes < 40*runs || all.released < runs || all.old < 5*runs || all.dropped < runs/10 ||
				row.weather.preempts > 0 && all.preempted < runs/3 || row.broken.lingers && all.lingered < runs {
				t.Error("too little happens for this to show anything")
			}
		})
	}
}

func TestEachSafeguardIsNeeded(t *testing.T) {
	gateAlone := func(b broken) broken { b.noEviction = true; return b }
	for _, row := range []struct {
		name    string
		weather weather
		broken  broken
	}{
		{"a relay that asks the gate and is paused before it writes, and no eviction", rough, broken{noEviction: true}},
		{"no gate, and no eviction", calm, gateAlone(broken{noGate: true})},
		{"a gate that is open after a restart before the lease is confirmed", calm, gateAlone(broken{adoptsOpen: true})},
		{"clocks that run apart by more than the margin", func() weather { w := calm; w.drift = 400; return w }(), gateAlone(broken{})},
		{"signs that are older than the margin allows", func() weather { w := calm; w.oldSigns = time.Minute; return w }(), gateAlone(broken{})},
		{"a taker that does not wait until a term is over", calm, gateAlone(broken{noWait: true})},
		{"a gate that was shut and opens by a sign, with no step that confirms the lease", calm, gateAlone(broken{signOpens: true})},
		{"a holder that goes on though others have dropped it", still, gateAlone(broken{lingers: true, ignoresDrop: true})},
		{"a holder that does not ask for its lease in turn", still, gateAlone(broken{lingers: true, noTurn: true})},
		{"a lease that is given back and its client not evicted", rough, broken{leavesClient: true}},
		{"a new session that nobody confirms", rough, broken{noConfirm: true}},
		{"a session that is confirmed before it is made", rough, broken{confirmsFirst: true}},
		{"an eviction before the lease is taken", rough, broken{evictsFirst: true}},
		{"a taker that dies before it has evicted, and is not followed up", storm, broken{forgetsEviction: true}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for seed := range enough {
				if w := simulate(uint64(seed), row.weather, row.broken); w.wrong != nil {
					t.Logf("seed %d: %s", seed, w.wrong[0])
					return
				}
			}
			t.Errorf("%d schedules show no harm", enough)
		})
	}
}

// A seed that failed can be looked at again by it alone.
func TestSameSeedIsTheSameRun(t *testing.T) {
	for seed := range uint64(20) {
		first, second := simulate(seed, rough, broken{}), simulate(seed, rough, broken{})
		if a, b := fmt.Sprint(first.entry, first.writes, first.now), fmt.Sprint(second.entry, second.writes, second.now); a != b {
			t.Errorf("seed %d: %s, and then %s", seed, a, b)
		}
	}
}
