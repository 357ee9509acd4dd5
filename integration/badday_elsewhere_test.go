//go:build integration

package integration

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestBadDayVolumeElsewhere has a volume on a file system that is not the home one: it
// is found on another host by its name alone, through the home catalogue.
func TestBadDayVolumeElsewhere(t *testing.T) {
	beside(t)
	a, b := bareTwo(t)
	second, err := a.lab.SecondServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := second.Dir("/export") + a.setting("EFS_ROOT")
	a.mustCreate("web", bareElsewhere(t, a), "uid=7")
	a.holds("web", "")
	if _, err := os.Stat(elsewhere + "/web/held"); err != nil {
		t.Errorf("the data is not on the second server: %v", err)
	}
	b.holds("web", "more")
	if v := b.mustGet("web"); v.Status.FileSystem != strings.TrimPrefix(bareElsewhere(t, a), "filesystem=") || v.Status.Options["uid"] != "7" {
		t.Errorf("host-b tells of it: %+v", v.Status)
	}
	b.fails(b.create("web", "filesystem=nfs://10.77.0.11/export"), "it exists with other options", "filesystem is", "leave the option out")
	b.mustCreate("web")
	b.mustRemove("web")
	for what, root := range map[string]string{"the home catalogue": a.onServer(""), "the second catalogue": elsewhere} {
		if left := bareRecords(t, root); len(left) > 0 {
			t.Errorf("%s still has %v", what, left)
		}
		bareTidy(t, root)
	}
	_, err = a.mount("web", "1")
	a.fails(err, "no such volume")
	err = bareWait(t, moment, func() error {
		if names, err := a.list(); err != nil || len(names) > 0 {
			return fmt.Errorf("host-a lists %v, %w", names, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	// Made anew at home it is found there, also by the host that knew the other.
	b.mustCreate("web")
	b.holds("web", "")
	a.holds("web", "more")
	a.mustRemove("web")
	a.unused()
	b.unused()
}

// TestBadDayDeadFileSystemDelaysNobody has one dead file system beside a living one.
func TestBadDayDeadFileSystemDelaysNobody(t *testing.T) {
	alone(t)
	l := hosts(t)
	p := startBare(t, l, "host-a")
	second, err := l.SecondServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const volumes, containers, dead = 50, 100, 10
	name := func(n int) string { return fmt.Sprintf("living%d", n%volumes) }
	var creates []func()
	for n := range volumes {
		creates = append(creates, func() { p.mustCreate(name(n)) })
	}
	for n := range dead {
		creates = append(creates, func() { p.mustCreate(fmt.Sprintf("dead%d", n), bareElsewhere(t, p)) })
	}
	together(creates...)
	p.mustMount("dead0", "1")

	// The slowest of all mounts and unmounts, each volume twice, all at once.
	slowest := func(round string) (mount, query time.Duration) {
		var mu sync.Mutex
		var calls []func()
		for n := range containers {
			calls = append(calls, func() {
				id := fmt.Sprintf("%s-%d", round, n)
				start := time.Now()
				_, err := p.mount(name(n), id)
				took := time.Since(start)
				start = time.Now()
				if err == nil {
					err = p.unmount(name(n), id)
				}
				took = max(took, time.Since(start))
				mu.Lock()
				defer mu.Unlock()
				if mount = max(mount, took); err != nil {
					t.Error(err)
				}
			})
		}
		calls = append(calls, func() {
			for range 20 {
				start := time.Now()
				_, getErr := p.get("dead0")
				names, listErr := p.list()
				if getErr != nil || listErr != nil || len(names) != volumes+dead {
					t.Errorf("Get: %v; List: %v, %d volumes", getErr, listErr, len(names))
				}
				query = max(query, time.Since(start))
			}
		})
		together(calls...)
		return mount, query
	}
	slowest("warming up") // connections to the host, above all
	mount, query := slowest("all well")
	t.Logf("all well: the slowest mount or unmount took %v, Get and List %v", mount, query)

	if err := second.Freeze(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = second.Thaw() })
	var waiting sync.WaitGroup
	var answered atomic.Int64 // calls for the dead one
	for n := range dead {
		waiting.Go(func() {
			_, err := p.mount(fmt.Sprintf("dead%d", n), "2")
			answered.Add(1)
			p.fails(err, "does not answer")
		})
	}
	for k := range 40 { // more than may wait for one file system
		waiting.Go(func() {
			err := p.create(fmt.Sprintf("new%d", k), bareElsewhere(t, p))
			answered.Add(1)
			p.fails(err, "does not answer")
		})
	}
	time.Sleep(500 * time.Millisecond)
	mount, query = slowest("one dead")
	t.Logf("one dead: the slowest mount or unmount took %v, Get and List %v", mount, query)
	// An order, not a time: how long they take is the machine's matter.
	if n := answered.Load(); n > 0 {
		t.Errorf("before all calls for living file systems were answered, %d for the dead one were; mount or unmount took %v, Get and List %v", n, mount, query)
	}
	waiting.Wait()
	if err := second.Thaw(); err != nil {
		t.Fatal(err)
	}
	p.mustUnmount("dead0", "1")
	p.holds("dead0", "")
	p.holds("dead1", "")
	p.leavesNothing()
	names, err := p.list()
	if slices.Sort(names); err != nil || len(names) < volumes+dead {
		t.Errorf("List says %v, %v", names, err)
	}
}
