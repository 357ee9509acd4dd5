package lease_test

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
)

// weather is what can go wrong.
type weather struct {
	// slow is how long a message takes at most; drift by how much a clock may be wrong, in
	// parts of a thousand.
	slow  time.Duration
	drift int
	// losses: one in so many messages is lost, or its answer; 0: none.
	losses int
	// late: messages may arrive up to two minutes late.
	late bool
	// oldLooks is for how long at most a host may be told a lease as it was, oldSigns a sign.
	oldLooks, oldSigns time.Duration
	// preempts: one in so many times a person says that whoever has the volume is dead; 0: never. The
	// person may be wrong.
	preempts int
	// faults is how many of those below happen to a host.
	faults int
	// pauses: a host stops for up to two minutes anywhere, and so does its clock; stops: its
	// processes stop, its clock goes on; cuts: it is cut off; crashes: the plugin starts
	// again; reboots: the host does.
	pauses, stops, cuts, crashes, reboots bool
}

// broken are safeguards that are left out, to see that they are needed.
type broken struct {
	noGate, noEviction, noConfirm, confirmsFirst, evictsFirst, forgetsEviction, adoptsOpen bool
	noWait, signOpens, leavesClient, ignoresDrop, noTurn                                   bool
	// lingers is none: a holder that was evicted nowhere may write until it must have found out. What has it
	// find out is for this alone: a holder that was evicted cannot write.
	lingers bool
}

// world is a server with one volume's lease and data, and the hosts.
type world struct {
	*sim
	weather weather
	broken  broken
	nodes   []*node

	entry    lease.Entry
	signs    map[string]int       // of hosts whose entries say that they use the volume
	sign     int                  // the latest one: none comes twice
	sessions map[lease.Tenure]int // of NFS clients
	session  int                  // the latest one's number
	serves   lease.Tenure         // the latest that was told that it has the lease

	current []lease.Tenure             // those that no later one has followed
	ends    map[lease.Tenure]time.Time // when a tenure that was followed must have found out, by its host's clock

	tally
	wrong []string
}

// node is a host. It is the clock and the store of its keeper.
type node struct {
	*world
	self   lease.Host
	rate   float64       // of its clock
	missed time.Duration // what its clock will not have seen when it goes on
	stands time.Duration // until when its clock stands still
	frozen time.Duration // until when nothing of it runs
	cut    time.Duration // until when nothing of it arrives
	tasks  []*task
	down   bool // the plugin
	keeper *lease.Keeper
	runs   *task // its Run

	uses      bool      // it says that it uses the volume, or tries to
	gone      bool      // others have dropped it, and it has not come back
	forgotten bool      // it has found that out, and not told its keeper yet
	signed    time.Time // when it began the latest sign that was given
	knownAs   memory[lease.Entry]
	knownOf   map[string]*memory[lease.Sign]

	// What outlives a crash of the plugin: what is on its disk, and the kernel's NFS client.
	held    *lease.Tenure
	client  int // the kernel's session
	stopsAt time.Duration
}

func (n *node) spawn(f func()) {
	n.tasks = append(n.tasks, n.sim.spawn(func() time.Duration { return max(0, n.frozen-n.now) }, f))
}

// Now is the host's clock.
func (n *node) Now() time.Time {
	return time.Unix(0, 0).Add(time.Duration(float64(max(n.now, n.stands)-n.missed) * n.rate))
}

// stand has the host stop, and its clock.
func (n *node) stand(d time.Duration) {
	end := n.now + d
	n.missed += max(0, end-max(n.now, n.stands))
	n.stands, n.frozen = max(n.stands, end), max(n.frozen, end)
}

// Sleep sleeps by the host's clock, and longer if that stands still meanwhile.
func (n *node) Sleep(ctx context.Context, d time.Duration) error {
	end := n.Now().Add(d)
	for left := d; left > 0; left = end.Sub(n.Now()) {
		n.active.sleep(time.Duration(float64(left)/n.rate) + 1)
	}
	return ctx.Err()
}

var errTimeout = errors.New("no answer")

// patience is how long a call waits for its answer.
const patience = 10 * time.Second

// ask has the server do something between the call and its answer, or later, or never.
func (n *node) ask(do func() error) error {
	t := n.active
	there, back, lost := n.journey()
	var answer error
	waits, answered := true, false
	if !lost {
		n.at(there, func() {
			err := do()
			n.at(back, func() {
				if waits && !answered {
					answer, answered = err, true
					t.resume()
				}
			})
		})
	}
	n.at(patience, func() {
		if waits && !answered {
			answer, answered = errTimeout, true
			t.resume()
		}
	})
	t.pause()
	waits = false
	return answer
}

// journey is how long a message takes, and its answer.
func (n *node) journey() (there, back time.Duration, lost bool) {
	there, back = n.between(0, n.weather.slow), n.between(0, n.weather.slow)
	if n.weather.losses > 0 && n.chance(n.weather.losses) {
		switch n.random.IntN(3) {
		case 0:
			lost = true
		case 1:
			back = time.Hour
		default:
			if n.weather.late {
				there = n.between(0, 2*time.Minute)
			}
		}
	}
	if left := n.cut - n.now; left > 0 {
		if n.weather.late {
			there += left // what is cut off is sent again until it arrives
		} else {
			lost = true
		}
	}
	return there, back, lost
}

// memory is an answer that a host gets again for a while, from its kernel, though there is a newer one.
type memory[T comparable] struct {
	answer T
	until  time.Duration
}

// recall is an answer as the host gets it.
func recall[T comparable](n *node, m *memory[T], longest time.Duration, answer T) T {
	if n.now >= m.until && longest > 0 && n.chance(10) {
		*m = memory[T]{answer, n.now + n.between(0, longest)}
	}
	if n.now >= m.until || m.answer == answer {
		return answer
	}
	n.old++
	return m.answer
}

// Look implements lease.Store.
func (n *node) Look(context.Context, string) (e lease.Entry, err error) {
	var found lease.Entry
	err = n.ask(func() error { found = recall(n, &n.knownAs, n.weather.oldLooks, n.entry); return nil })
	if n.broken.forgetsEviction {
		found.From = lease.Tenure{}
	}
	return found, err
}

// Take implements lease.Store.
func (n *node) Take(_ context.Context, _ string, from, to lease.Entry) error {
	if n.broken.noTurn && n.active == n.runs && n.anyOpen() {
		return errTimeout
	}
	return n.ask(func() error {
		n.knownAs.until = 0 // a step shows a host what there is
		if n.entry != from && (!n.broken.forgetsEviction || n.entry.Serial != from.Serial) {
			return lease.ErrTaken
		}
		if n.broken.evictsFirst {
			delete(n.sessions, to.From)
		}
		n.entry = to
		return nil
	})
}

// anyOpen tells whether Run takes a step only because it is a lease's turn.
func (n *node) anyOpen() bool { return slices.ContainsFunc(n.keeper.Held(), (*lease.Lease).Open) }

// Evict implements lease.Store.
func (n *node) Evict(_ context.Context, _ string, t lease.Tenure) error {
	return n.ask(func() error {
		leaves := n.held != nil && t == *n.held // it gives the lease back
		if !n.broken.noEviction && !n.broken.evictsFirst && !(n.broken.leavesClient && leaves) {
			delete(n.sessions, t)
		}
		return nil
	})
}

// deadline is a context that ends by a host's clock.
type deadline struct {
	context.Context
	node *node
	at   time.Time
}

func (d deadline) Err() error {
	if d.node.Now().After(d.at) {
		return context.DeadlineExceeded
	}
	return nil
}

// live is a host's life: it wants the volume, has it for a while, gives it back.
func (n *node) live() {
	n.down, n.uses, n.forgotten, n.signed = false, n.held != nil, false, time.Time{}
	n.keeper = &lease.Keeper{Self: n.self, Store: n, Clock: n}
	n.spawn(func() {
		n.runs = n.active
		n.keeper.Run(context.Background())
	})
	n.spawn(n.sweep)
	n.spawn(func() {
		if n.held != nil {
			n.use(n.keeper.Adopt("v", *n.held))
		}
		for {
			_ = n.Sleep(context.Background(), n.between(0, 40*time.Second))
			// Nothing but a preempt takes a lease without the wait.
			if n.broken.noWait || n.weather.preempts > 0 && n.chance(n.weather.preempts) {
				n.preempt()
			}
			if l := n.acquire(); l != nil {
				n.use(l)
			}
		}
	})
}

func (n *node) preempt() {
	if was, err := n.keeper.Preempt(context.Background(), "v"); err == nil && was != (lease.Host{}) {
		n.preempted++
	}
}

func (n *node) acquire() *lease.Lease {
	if n.announce() != nil {
		return nil
	}
	l, err := n.keeper.Acquire(deadline{context.Background(), n, n.Now().Add(22 * time.Second)}, "v")
	if err != nil {
		n.withdraw()
		return nil
	}
	t := l.Tenure
	n.held, n.client, n.stopsAt = &t, 0, n.now+n.between(5*time.Second, 90*time.Second)
	n.told(t)
	return l
}

// use has a container write, until it is stopped or the lease is lost.
func (n *node) use(l *lease.Lease) {
	opens := n.broken.adoptsOpen && n.client != 0
	for n.now < n.stopsAt && l.Over() == nil {
		if err := n.write(l, opens); err != nil {
			_ = n.Sleep(context.Background(), n.between(0, time.Second))
		}
	}
	if l.Over() != nil {
		n.lost++
		n.keeper.Forget(l)
	} else {
		for n.keeper.Release(context.Background(), l) != nil {
			_ = n.Sleep(context.Background(), time.Second)
		}
		n.released++
	}
	n.held, n.client = nil, 0
	n.withdraw()
}

var (
	errShut       = errors.New("the gate is shut")
	errBadSession = errors.New("bad session")
)

// write is one write of the kernel's through the relay, with a new session if it has none.
func (n *node) write(l *lease.Lease, opens bool) error {
	if n.client == 0 {
		if n.broken.confirmsFirst && l.Confirm(context.Background()) != nil {
			return errShut
		}
		made, err := n.introduce(l, opens)
		if err != nil {
			return err
		}
		if !n.broken.noConfirm && !n.broken.confirmsFirst {
			if err := l.Confirm(context.Background()); err != nil {
				return err
			}
		}
		n.client = made
	}
	session := n.client
	err := n.pass(l, opens, func() error {
		if n.sessions[l.Tenure] != session {
			return errBadSession
		}
		n.accept(l.Tenure)
		return nil
	})
	if errors.Is(err, errBadSession) {
		n.client = 0
	}
	return err
}

func (n *node) introduce(l *lease.Lease, opens bool) (session int, err error) {
	err = n.pass(l, opens, func() error {
		n.session++
		session = n.session
		n.sessions[l.Tenure] = session
		return nil
	})
	return session, err
}

// pass sends a message through the gate. Between the question and the message anything may stop.
func (n *node) pass(l *lease.Lease, opens bool, do func() error) error {
	if !n.broken.noGate && !opens && !l.Open() && !n.signOpens(l) {
		return errShut
	}
	if n.weather.stops || n.weather.pauses {
		n.active.sleep(0)
	}
	return n.ask(do)
}

// signOpens is a gate that every sign of life opens, though nothing has confirmed the lease.
func (n *node) signOpens(l *lease.Lease) bool {
	return n.broken.signOpens && l.Over() == nil && n.Now().Sub(n.signed) < lease.Term-2*time.Second
}
