//go:build integration

package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

const (
	// quick is what a call takes at most, on a busy machine too, if it does not wait for a server: one that
	// does takes 10 s and more.
	quick = 8 * time.Second
	// patient is a call's budget of 25 s and the way to a busy host. It is less than Docker waits: the answer
	// has to be the plugin's.
	patient = bareCallLimit - 2*time.Second
)

// silence is one way in which a server is not there. Each has an address of its
// own, so that all are tried at the same time.
type silence struct {
	name   string
	server *lab.Server
	zone   string
	harm   func(address netip.Addr) error
	first  []string // words of the error when nothing is mounted yet

	plugin  *barePlugin
	slowest time.Duration // of the queries while nothing answers
}

func silences(t *testing.T) []*silence {
	l := hosts(t)
	second, err := l.SecondServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rows := []*silence{
		{
			name: "refuses connections", server: l.Server, zone: "c",
			harm:  func(a netip.Addr) error { return l.Server.Reject(t.Context(), a) },
			first: []string{"connection refused", "check that the NFS server is running"},
		},
		{
			name: "is stopped", server: second, zone: "a",
			harm:  func(netip.Addr) error { second.Stop(); return nil },
			first: []string{"connection refused", "check that the NFS server is running"},
		},
		{
			name: "swallows packets", server: l.Server, zone: "b",
			harm:  func(a netip.Addr) error { return l.Server.Drop(t.Context(), a) },
			first: []string{"does not answer", "check that the server is up", "security group", "port 2049"},
		},
		{
			// It freezes the whole server, but the others' faults are in front of it.
			name: "is frozen", server: l.Server, zone: "a",
			harm:  func(netip.Addr) error { return l.Server.Freeze() },
			first: []string{"does not answer", "check that the server is up"},
		},
	}
	t.Cleanup(func() {
		if err := healServers(l.Server, second); err != nil {
			t.Error(err)
		}
	})
	for i, row := range rows {
		host := l.Hosts()[i%2].Name()
		row.plugin = makeBare(t, l, host, fmt.Sprintf("EFS_FILESYSTEM=nfs://%s/export", row.server.Addr(row.zone)))
	}
	return rows
}

func healServers(servers ...*lab.Server) error {
	var err error
	for _, s := range servers {
		ctx, cancel := bareContext()
		err = errors.Join(err, s.Start(ctx), s.Thaw(), s.Heal(ctx))
		cancel()
	}
	return err
}

// all runs a step for every row at once.
func all(rows []*silence, step func(*silence)) {
	var group sync.WaitGroup
	for _, row := range rows {
		group.Go(func() { step(row) })
	}
	group.Wait()
}

// TestBadDayServerDoesNotAnswer tries a server that is not there at first, then one
// that goes away while volumes of it are mounted; each comes back, and the plugin
// is not restarted in between.
func TestBadDayServerDoesNotAnswer(t *testing.T) {
	alone(t)
	rows := silences(t)
	for _, row := range rows {
		if err := row.harm(row.server.Addr(row.zone)); err != nil {
			t.Fatal(err)
		}
	}
	all(rows, func(row *silence) { row.beforeTheFirstMount(t) })
	if err := healServers(rows[0].server, rows[1].server); err != nil {
		t.Fatal(err)
	}
	all(rows, func(row *silence) { row.prepare(t) })
	if t.Failed() {
		return
	}
	for _, row := range rows {
		if err := row.harm(row.server.Addr(row.zone)); err != nil {
			t.Fatal(err)
		}
	}
	pulse := takePulse(rows[0].plugin)
	all(rows, func(row *silence) { row.whileMounted(t) })
	pulse.check(t, rows)
	if err := healServers(rows[0].server, rows[1].server); err != nil {
		t.Fatal(err)
	}
	all(rows, func(row *silence) { row.afterwards(t) })
}

// attempt makes a call and complains if it takes longer than limit.
func (s *silence) attempt(t *testing.T, what string, limit time.Duration, call func() error) error {
	start := time.Now()
	err := call()
	if took := time.Since(start); took > limit {
		t.Errorf("server %s: %s took %v", s.name, what, took.Round(time.Millisecond))
	}
	return err
}

// refused is an attempt of a call that has to fail with these words.
func (s *silence) refused(t *testing.T, what string, words []string, call func() error) {
	err := s.attempt(t, what, patient, call)
	var answer bareError
	if !errors.As(err, &answer) || strings.Contains(answer.text, "\n") {
		t.Errorf("server %s: %s: want an error in one line, got %v", s.name, what, err)
		return
	}
	for _, word := range words {
		if !strings.Contains(answer.text, word) {
			t.Errorf("server %s: %s does not say %q: %s", s.name, what, word, answer.text)
		}
	}
}

// together makes calls at the same time.
func together(calls ...func()) {
	var group sync.WaitGroup
	for _, call := range calls {
		group.Go(call)
	}
	group.Wait()
}

func (s *silence) beforeTheFirstMount(t *testing.T) {
	p := s.plugin
	p.start()
	together(
		func() { s.refused(t, "Create", s.first, func() error { return p.create("web") }) },
		func() { s.refused(t, "Mount", s.first, func() error { _, err := p.mount("web", "1"); return err }) },
		func() { s.refused(t, "Remove of an unknown volume", s.first, func() error { return p.remove("old") }) },
		func() {
			if err := s.attempt(t, "List", quick, func() error { _, err := p.list(); return err }); err != nil {
				t.Error(err)
			}
		},
		func() {
			if err := s.attempt(t, "Unmount", quick, func() error { return p.unmount("web", "1") }); err != nil {
				t.Error(err)
			}
		},
		func() {
			// No volume of this name is known; that Get fails is the right answer.
			_ = s.attempt(t, "Get", quick, func() error { _, err := p.get("web"); return err })
		},
	)
	p.unused()
}

// prepare is after the server came back: everything has to work.
func (s *silence) prepare(t *testing.T) {
	p := s.plugin
	err := bareWait(t, 30*time.Second, func() error { return p.create("kept") })
	for _, name := range []string{"kept", "idle", "old"} {
		if err == nil {
			err = p.create(name)
		}
	}
	if err == nil {
		_, err = p.mount("kept", "1")
	}
	if err != nil {
		t.Errorf("server %s and came back: %v", s.name, err)
		return
	}
	p.sh("echo kept >" + p.data() + "/volumes/kept/file && sync " + p.data() + "/volumes/kept/file")
}

func (s *silence) whileMounted(t *testing.T) {
	p := s.plugin
	words := []string{"does not answer", "check that the server is up", "running containers wait for it"}
	if err := s.attempt(t, "Get at once", quick, func() error { _, err := p.get("kept"); return err }); err != nil {
		t.Error(err)
	}
	together(
		func() { s.refused(t, "Create", words, func() error { return p.create("new") }) },
		func() { s.refused(t, "Mount", words, func() error { _, err := p.mount("idle", "2"); return err }) },
		func() {
			s.refused(t, "Mount of a mounted volume", words, func() error { _, err := p.mount("kept", "3"); return err })
		},
		func() { s.refused(t, "Remove", words, func() error { return p.remove("old") }) },
		func() { s.queries(t, 11*time.Second) },
	)
	if err := s.attempt(t, "Unmount", quick, func() error { return p.unmount("kept", "1") }); err != nil {
		t.Error(err)
	}
	v, err := p.get("kept")
	if err != nil || len(v.Status.Trouble) == 0 || !strings.Contains(v.Status.Trouble[0], "does not answer") {
		t.Errorf("server %s: Status has no trouble: %+v, %v", s.name, v, err)
	}
	p.unused()
}

// queries asks again and again for a while.
func (s *silence) queries(t *testing.T, length time.Duration) {
	p := s.plugin
	for start := time.Now(); time.Since(start) < length; time.Sleep(100 * time.Millisecond) {
		for _, call := range []func() error{
			func() error { _, err := p.get("kept"); return err },
			func() error { _, err := p.get("idle"); return err },
			func() error {
				names, err := p.list()
				if err == nil && len(names) < 3 {
					err = fmt.Errorf("List has only %v", names)
				}
				return err
			},
			func() error { return p.unmount("kept", "unknown") },
		} {
			began := time.Now()
			if err := call(); err != nil {
				t.Errorf("server %s: %v", s.name, err)
			}
			s.slowest = max(s.slowest, time.Since(began))
		}
	}
}

// pulse is how slow a call is that has nothing to do: a machine that is busy with
// other things stands still for a moment now and then.
type pulse struct {
	stop    chan struct{}
	slowest chan time.Duration
}

func takePulse(p *barePlugin) pulse {
	one := pulse{make(chan struct{}), make(chan time.Duration, 1)}
	go func() {
		var slowest time.Duration
		for {
			select {
			case <-one.stop:
				one.slowest <- slowest
				return
			case <-time.After(20 * time.Millisecond):
			}
			began := time.Now()
			_ = p.call(p.t.Context(), "Capabilities", struct{}{}, &struct{}{})
			slowest = max(slowest, time.Since(began))
		}
	}()
	return one
}

// check compares the queries' times with the pulse's.
func (p pulse) check(t *testing.T, rows []*silence) {
	close(p.stop)
	idle := <-p.slowest
	for _, row := range rows {
		t.Logf("server %s: the slowest Get, List or Unmount took %v; a call with nothing to do %v",
			row.name, row.slowest.Round(time.Millisecond), idle.Round(time.Millisecond))
		if row.slowest > quick+2*idle {
			t.Errorf("server %s: a Get, List or Unmount took %v", row.name, row.slowest)
		}
	}
}

func (s *silence) afterwards(t *testing.T) {
	p := s.plugin
	start := time.Now()
	// The kernel's own retries decide when it notices that the server is back.
	var mountpoint string
	err := bareWait(t, time.Minute, func() (err error) { mountpoint, err = p.mount("kept", "4"); return err })
	if err != nil {
		t.Errorf("server %s and came back: %v", s.name, err)
		return
	}
	t.Logf("server %s: Mount works %v after it came back", s.name, time.Since(start).Round(time.Millisecond))
	if got := p.sh("cat " + mountpoint + "/file"); got != "kept" {
		t.Errorf("server %s and came back: the volume holds %q", s.name, got)
	}
	for what, err := range map[string]error{
		"Unmount": p.unmount("kept", "4"), "Create": p.create("new"), "Remove": p.remove("old"),
		"Remove of the new one": p.remove("new"),
	} {
		if err != nil {
			t.Errorf("server %s and came back: %s: %v", s.name, what, err)
		}
	}
	p.holds("idle", "")
	p.leavesNothing()
	for _, f := range p.status().FileSystems {
		if f.Trouble != "" {
			t.Errorf("server %s and came back: Status still says: %s", s.name, f.Trouble)
		}
	}
}
