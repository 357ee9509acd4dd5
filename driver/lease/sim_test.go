package lease_test

import (
	"container/heap"
	"iter"
	"math/rand/v2"
	"time"
)

// A simulation runs the protocol's own code on a clock, a network and a server of its own. Its
// tasks are coroutines, of which one runs at a time, and a seed decides everything: the same seed is the same run.

// sim is the world. Its time begins at 0 and is nobody's clock.
type sim struct {
	random *rand.Rand
	now    time.Duration
	queue  events
	next   uint64 // breaks ties in the order of making
	tasks  []*task
	active *task // the one that runs
}

type event struct {
	at    time.Duration
	order uint64
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}

func newSim(seed uint64) *sim {
	return &sim{random: rand.New(rand.NewPCG(seed, 0))}
}

// at has something happen after a while.
func (s *sim) at(after time.Duration, do func()) {
	s.next++
	heap.Push(&s.queue, event{s.now + after, s.next, do})
}

// chance is true once in n times.
func (s *sim) chance(n int) bool { return s.random.IntN(n) == 0 }

// between is a random duration.
func (s *sim) between(low, high time.Duration) time.Duration {
	return low + time.Duration(s.random.Int64N(int64(high-low)))
}

// run lets everything happen up to a time, and then ends all tasks.
func (s *sim) run(until time.Duration) {
	for s.queue.Len() > 0 && s.queue[0].at <= until {
		e := heap.Pop(&s.queue).(event)
		s.now = e.at
		e.do()
	}
	for _, t := range s.tasks {
		t.kill()
	}
}

// task runs when it is resumed and until it pauses.
type task struct {
	sim    *sim
	next   func() (struct{}, bool)
	stop   func()
	yield  func(struct{}) bool // false: end
	over   bool
	frozen func() time.Duration // how long it cannot be resumed yet; 0: it can
}

// killed ends a task from within.
type killed struct{}

func (s *sim) spawn(frozen func() time.Duration, f func()) *task {
	t := &task{sim: s, frozen: frozen}
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		defer func() {
			t.over = true
			if why := recover(); why != nil && why != (killed{}) {
				panic(why)
			}
		}()
		t.yield = yield
		f()
	})
	s.tasks = append(s.tasks, t)
	s.at(0, t.resume)
	return t
}

func (t *task) resume() {
	if t.over {
		return
	}
	if left := t.frozen(); left > 0 {
		t.sim.at(left, t.resume)
		return
	}
	t.sim.active = t
	t.next()
}

func (t *task) kill() {
	t.over = true
	t.stop()
}

// pause returns control until the task is resumed. Called by the task itself.
func (t *task) pause() {
	if !t.yield(struct{}{}) {
		panic(killed{})
	}
}

// sleep pauses for a while.
func (t *task) sleep(d time.Duration) {
	t.sim.at(max(d, 0), t.resume)
	t.pause()
}
