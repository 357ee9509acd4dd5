package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/tcp"
)

// GroupOptions describe a [Group]. The zero value works.
type GroupOptions struct {
	FileSystem string // for logs and [GroupState]
	Home       string // the home zone; empty: none
	Knobs      Knobs
	Return     ReturnPolicy
	// Begin is the address of the target to begin with, if it is one of them: an earlier process
	// was there, and each move may cost locks. Zero: the first in order.
	Begin netip.AddrPort
	// Drained are zones that are drained from the start; see [Group.Drain].
	Drained []string
	// Check asks a target and returns how long the answer took. It must end with
	// its context. Default: [Ping].
	Check func(context.Context, netip.AddrPort) (time.Duration, error)
	// Dial connects to a target. It must end with its context. Default: [tcp.Dial].
	Dial func(context.Context, netip.AddrPort) (*net.TCPConn, error)
	// Log gets moves and changes of health. Default: nowhere.
	Log logrus.FieldLogger
}

// recentMoves is how many moves a [GroupState] shows.
const recentMoves = 20

// Group decides which of a file system's mount targets is in use. There is one
// decision for all connections, so that no client has its connections on two
// servers.
type Group struct {
	options GroupOptions
	knobs   Knobs
	wake    chan struct{} // tells Run to look again

	mu         sync.Mutex // guards all that follows; never held over a call to the outside
	members    []*member  // in the order given
	current    *member    // nil only as long as there was never a target
	drained    map[string]bool
	news       chan struct{} // closed when it is worth connecting anew
	wentHome   time.Time
	moves      map[Cause]uint64
	recent     []Move
	listeners  []*func(Move)
	events     []func() // to be told outside the lock, in order
	delivering bool
}

// member is a target of a group, guarded by the group's mu.
type member struct {
	Target
	pulse
	hold hold
	// condemned is why the current target would be left if any other answered.
	condemned Cause

	next   time.Time          // when the next check is due
	began  time.Time          // when the latest one began
	asking bool               // one is under way
	turn   uint64             // tells the latest check from those given up
	giveUp context.CancelFunc // ends the one under way
}

// NewGroup makes a group that uses the first of the targets, home zone first.
// It starts nothing: see [Group.Run].
func NewGroup(options GroupOptions, targets []Target) *Group {
	if options.Check == nil {
		options.Check = Ping
	}
	if options.Dial == nil {
		options.Dial = tcp.Dial
	}
	if options.Log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		options.Log = silent
	}
	g := &Group{
		options: options,
		knobs:   options.Knobs.withDefaults(),
		wake:    make(chan struct{}, 1),
		drained: map[string]bool{},
		news:    make(chan struct{}),
		moves:   map[Cause]uint64{},
	}
	for _, zone := range options.Drained {
		g.drained[zone] = true
	}
	g.SetTargets(targets)
	return g
}

// Current returns the target in use; the zero Target if there was never one.
func (g *Group) Current() Target {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current == nil {
		return Target{}
	}
	return g.current.Target
}

// SetHome tells the home zone, when it is learned after the group was made. A target in use
// is not left for it.
func (g *Group) SetHome(zone string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.options.Home = zone
}

// SetTargets replaces the targets. Those that stay keep what is known of them;
// a target given twice counts once. No targets at all is no news: whoever asked
// for them was not answered.
func (g *Group) SetTargets(targets []Target) {
	if len(targets) == 0 {
		return
	}
	defer g.deliver()
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	before := g.members
	g.members = nil
	for _, target := range targets {
		if g.find(target) != nil {
			continue
		}
		m := &member{Target: target, pulse: pulse{health: Unknown, since: now}, next: now}
		if i := slices.IndexFunc(before, m.is); i >= 0 {
			m = before[i]
			m.Target = target
		}
		g.members = append(g.members, m)
	}
	for _, m := range before {
		if !slices.Contains(g.members, m) {
			m.abandon()
		}
	}
	switch {
	case g.current == nil:
		g.current = g.order()[0]
		if i := slices.IndexFunc(g.members, func(m *member) bool { return m.Addr == g.options.Begin }); i >= 0 {
			g.current = g.members[i]
		}
		g.tell()
	case !slices.Contains(g.members, g.current):
		g.replaceGone(now)
	}
	g.reconsider(now)
	g.poke()
}

// is reports whether two members are one target. Its zone may be learned later than its
// address.
func (m *member) is(other *member) bool { return m.Addr == other.Addr }

// find returns the member for a target, nil if it is not (or no longer) one.
func (g *Group) find(target Target) *member {
	i := slices.IndexFunc(g.members, (&member{Target: target}).is)
	if i < 0 {
		return nil
	}
	return g.members[i]
}

// Doubt says that traffic to a target does not get through. It is checked at
// once; one failed check agrees and the target is left.
func (g *Group) Doubt(t Target, why error) {
	defer g.deliver()
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	m := g.find(t)
	if m == nil {
		return
	}
	was, wasSince := m.health, m.since
	if !m.suspect(now, reason(why)) {
		return
	}
	g.noteHealth(m, was, wasSince)
	m.reask(now)
	if m == g.current {
		g.hurry(now)
	}
	g.poke()
}

// Failed says that a target refused or reset a connection, or let it time out,
// and gave no new one. It is left at once if any other is usable.
func (g *Group) Failed(t Target, err error) {
	defer g.deliver()
	g.mu.Lock()
	defer g.mu.Unlock()
	if m := g.find(t); m != nil {
		now := time.Now()
		m.reask(now)
		g.fail(now, m, causeOf(err), reason(err))
		g.poke()
	}
}

// Answered says that traffic to a target gets through: doubt ends. It is cheap
// enough to be called for each sign of life.
func (g *Group) Answered(t Target) {
	defer g.deliver()
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.find(t)
	if m == nil {
		return
	}
	was, wasSince := m.health, m.since
	m.answered(time.Now())
	g.noteHealth(m, was, wasSince)
	g.acquit(m)
}

// ErrNotLeft reports a zone that is drained and still in use.
var ErrNotLeft = errors.New("no other mount target can be used now; it is left as soon as one can")

// Drain moves the file system away from a zone and keeps it away, or allows it
// again. If every target is drained, none is. With [ErrNotLeft] that is done, though the zone is
// in use for now.
func (g *Group) Drain(zone string, on bool) error {
	defer g.deliver()
	g.mu.Lock()
	defer g.mu.Unlock()
	var zones []string
	for _, m := range g.members {
		if m.Zone != "" {
			zones = append(zones, m.Zone)
		}
	}
	slices.Sort(zones)
	zones = slices.Compact(zones)
	if !slices.Contains(zones, zone) && (on || !g.drained[zone]) {
		return fmt.Errorf("no mount target in zone %q; there are: %s", zone, strings.Join(zones, ", "))
	}
	if on {
		g.drained[zone] = true
	} else {
		delete(g.drained, zone)
	}
	now := time.Now()
	g.hurry(now)
	g.reconsider(now)
	g.poke()
	if on && g.current.Zone == zone {
		return fmt.Errorf("zone %s is in use still: %w", zone, ErrNotLeft)
	}
	return nil
}

// State returns a picture of the group, the targets in order of preference.
func (g *Group) State() GroupState {
	g.mu.Lock()
	defer g.mu.Unlock()
	state := GroupState{FileSystem: g.options.FileSystem, Home: g.options.Home, Moves: maps.Clone(g.moves), Recent: slices.Clone(g.recent)}
	if g.current != nil {
		state.Current = g.current.Target
	}
	for _, m := range g.order() {
		state.Targets = append(state.Targets, TargetState{
			Target: m.Target, InUse: m == g.current, Drained: g.drained[m.Zone],
			Health: m.health, Since: m.since, Why: m.why,
			RTT: m.rtt, Checked: m.checked, Checks: m.checks, Failures: m.failures,
		})
	}
	return state
}

func reason(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func causeOf(err error) Cause {
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return CauseTimeout
	}
	return CauseRefused
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
