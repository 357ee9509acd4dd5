package driver_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/state"
)

// parent keeps listeners as the parent process does: a worker gets what an earlier one had kept, once.
type parent struct {
	mu      sync.Mutex // guards the following fields
	kept    map[string]*os.File
	fresh   map[string]bool // of this worker
	asked   int             // how often something was to be kept
	refuses error
	hangs   chan struct{} // closed when what is to be kept is taken; nil: at once
}

var _ driver.Listeners = (*parent)(nil)

func newParent(t *testing.T) *parent {
	p := &parent{kept: map[string]*os.File{}, fresh: map[string]bool{}}
	t.Cleanup(func() {
		for _, file := range p.kept {
			_ = file.Close()
		}
	})
	return p
}

func (p *parent) keeps(o *driver.Options) { o.Listeners = p }

// hang has nothing be taken until the result is called.
func (p *parent) hang() (release func()) {
	gate := make(chan struct{})
	p.set(func() { p.hangs = gate })
	return func() {
		p.set(func() { p.hangs = nil })
		close(gate)
	}
}

func (p *parent) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *parent) Listener(name string) net.Listener {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept[name] == nil || p.fresh[name] {
		return nil
	}
	p.fresh[name] = true
	listener, err := net.FileListener(p.kept[name])
	if err != nil {
		return nil
	}
	return listener
}

func (p *parent) Keep(name string, listener net.Listener) error {
	p.mu.Lock()
	p.asked++
	gate := p.hangs
	p.mu.Unlock()
	if gate != nil {
		<-gate
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuses != nil {
		return p.refuses
	}
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	p.drop(name)
	p.kept[name], p.fresh[name] = file, true
	return nil
}

func (p *parent) Drop(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(name)
	return nil
}

// drop forgets a listener. The caller holds mu.
func (p *parent) drop(name string) {
	if file := p.kept[name]; file != nil {
		_ = file.Close()
	}
	delete(p.kept, name)
}

// nextWorker has listeners given out again.
func (p *parent) nextWorker() { p.set(func() { clear(p.fresh) }) }

// timesAsked is how often something was to be kept.
func (p *parent) timesAsked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// wantRelays compares how many relays run, outlive a crash in the state, and in the parent.
func (h *testHost) wantRelays(p *parent, want int) {
	h.t.Helper()
	p.mu.Lock()
	held := len(p.kept)
	p.mu.Unlock()
	if running, kept := len(h.RelaysRunning()), h.RelaysKept(); running != want || kept != want || held != want {
		h.t.Errorf("%d relays run, %d are in the state, of %d the parent has the listener; want %d", running, kept, held, want)
	}
}

// A lease that ran out must end what its relay passes at that moment, and status is asked in trouble.
func TestNobodyWaitsForARelayThatIsBeingOpened(t *testing.T) {
	for what, hang := range map[string]func(*testHost, *parent) (release func()){
		"this host's disk hangs":     func(h *testHost, _ *parent) func() { return h.HangRelays() },
		"the parent does not answer": func(_ *testHost, p *parent) func() { return p.hang() },
	} {
		t.Run(what, func(t *testing.T) {
			p := newParent(t)
			h, _ := exclusively(t, p.keeps)
			h.create("other", "access=exclusive")
			h.mount("data", "1")
			before := p.timesAsked()
			release := hang(h, p)
			defer release()
			h.behind(func() { _ = mountOf(t.Context(), h, "other", "1") })
			eventually(t, "the other volume's relay is being opened", func() bool { return p.timesAsked() > before })
			answered := make(chan struct{})
			h.behind(func() {
				h.FenceVolume("data")
				_ = h.Overview()
				close(answered)
			})
			select {
			case <-answered:
			case <-time.After(10 * time.Second):
				t.Fatal("they wait")
			}
			if h.RelaysKept() != 1 {
				t.Error("the other volume's relay was opened")
			}
		})
	}
}

func TestRelayThatManyOpenAtOnceIsOne(t *testing.T) {
	p := newParent(t)
	h := newHost(t, "", p.keeps, onServer(nfsServer(t), &faults{export: t.TempDir()}))
	release := p.hang()
	var opening sync.WaitGroup
	addrs := make([]netip.AddrPort, 16)
	for i := range addrs {
		opening.Go(func() {
			var err error
			if addrs[i], err = h.OpenRelay(t.Context(), "one"); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "one is being opened", func() bool { return p.timesAsked() > 0 })
	time.Sleep(50 * time.Millisecond) // so that others come meanwhile
	release()
	opening.Wait()
	if all := slices.Compact(addrs); len(all) != 1 || p.timesAsked() != 1 {
		t.Errorf("they are at %v, and %d were to be kept", all, p.timesAsked())
	}
	h.wantRelays(p, 1)
	h.CloseRelay("one")
	h.wantRelays(p, 0)
	if conn, err := net.Dial("tcp", addrs[0].String()); err == nil {
		_ = conn.Close()
		t.Error("it listens after its end")
	}
}

// Whoever comes last, the relay is there as a whole or not at all.
func TestRelayThatIsOpenedAndClosedAtOnce(t *testing.T) {
	// calls makes both, the second one while the first waits.
	calls := func(t *testing.T, first func(), waits func() bool, second func(), release func()) {
		var both sync.WaitGroup
		defer both.Wait()
		defer release()
		both.Go(first)
		eventually(t, "the first call waits", waits)
		both.Go(second)
		time.Sleep(50 * time.Millisecond) // for the second
	}
	host := func(t *testing.T) (*testHost, *parent, func()) {
		p := newParent(t)
		h := newHost(t, "", p.keeps, onServer(nfsServer(t), &faults{export: t.TempDir()}))
		return h, p, func() {
			if _, err := h.OpenRelay(t.Context(), "one"); err != nil {
				t.Error(err)
			}
		}
	}
	t.Run("closed while it is opened, it is gone", func(t *testing.T) {
		h, p, open := host(t)
		release := p.hang()
		calls(t, open, func() bool { return p.timesAsked() > 0 }, func() { h.CloseRelay("one") }, release)
		h.wantRelays(p, 0)
	})
	t.Run("opened while it is closed, it is there", func(t *testing.T) {
		h, p, open := host(t)
		open()
		release := h.HangRelays()
		calls(t, func() { h.CloseRelay("one") }, func() bool { return len(h.RelaysRunning()) == 0 }, open, release)
		h.wantRelays(p, 1)
	})
}

// longIdentity is one whose line has no place in the rest of a page.
var longIdentity = strings.Repeat("long-", 1000)

func TestRelayThatCannotBeOpenedLeavesNothing(t *testing.T) {
	for _, row := range []struct {
		name string
		fail func(*testHost, *parent) (mend func())
		want error
	}{
		{"because the parent refuses", func(_ *testHost, p *parent) func() {
			p.set(func() { p.refuses = syscall.EMFILE })
			return func() { p.set(func() { p.refuses = nil }) }
		}, syscall.EMFILE},
		{"because this host's disk is full", func(h *testHost, _ *parent) func() { return h.fill() }, state.ErrHostDisk},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, disk := newParent(t), smallDisk(t)
			h := newHost(t, "", p.keeps, onServer(nfsServer(t), &faults{export: t.TempDir()}), func(o *driver.Options) { o.Data = disk })
			mend := row.fail(h, p)
			for range 2 {
				if _, err := h.OpenRelay(t.Context(), longIdentity); !errors.Is(err, row.want) {
					t.Errorf("error %v", err)
				}
				h.wantRelays(p, 0)
			}
			mend()
			if _, err := h.OpenRelay(t.Context(), longIdentity); err != nil {
				t.Error(err)
			}
			h.wantRelays(p, 1)
		})
	}
}

// Mounts of running containers connect to it.
func TestRelayOfAnEarlierRunIsServedThoughTheDiskIsFull(t *testing.T) {
	p, disk := newParent(t), smallDisk(t)
	h := newHost(t, "", p.keeps, onServer(nfsServer(t), &faults{export: t.TempDir()}), func(o *driver.Options) { o.Data = disk })
	addr, err := h.OpenRelay(t.Context(), longIdentity)
	if err != nil {
		t.Fatal(err)
	}
	empty := h.fill()
	h.stop()
	p.nextWorker()
	h.start()
	if running := h.RelaysRunning(); !slices.Equal(running, []netip.AddrPort{addr}) {
		t.Errorf("there are %v, want %v", running, addr)
	}
	if _, err := h.OpenRelay(t.Context(), "another-"+longIdentity); !errors.Is(err, state.ErrHostDisk) {
		t.Errorf("the disk was not full: error %v", err)
	}
	h.wantRelays(p, 1)
	empty()
	h.stop()
	p.nextWorker()
	h.start()
	h.wantRelays(p, 1)
}
