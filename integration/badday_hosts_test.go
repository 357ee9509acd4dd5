//go:build integration

package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// bareTwo starts a plugin on each host, with one root.
func bareTwo(t *testing.T) (a, b *barePlugin) {
	t.Helper()
	l := hosts(t)
	a = startBare(t, l, "host-a")
	b = startBare(t, l, "host-b", "EFS_ROOT="+a.setting("EFS_ROOT"))
	return a, b
}

const races = 50

func TestBadDayTwoHostsCreateOneName(t *testing.T) {
	beside(t)
	a, b := bareTwo(t)
	for i := range races {
		var errs [2]error
		name := fmt.Sprintf("equal%d", i)
		together(
			func() { errs[0] = a.create(name, "uid=7", "mode=0750") },
			func() { errs[1] = b.create(name, "uid=7", "mode=0750") },
		)
		if err := errors.Join(errs[0], errs[1]); err != nil {
			t.Errorf("equal options: %v", err)
		}
	}
	wins := map[string]int{}
	for i := range races {
		var errs [2]error
		name := fmt.Sprintf("different%d", i)
		together(
			func() { errs[0] = a.create(name, "uid=1") },
			func() { errs[1] = b.create(name, "uid=2") },
		)
		winner, loser := a, b
		won := 0
		if errs[0] != nil {
			winner, loser, won = b, a, 1
		}
		if errs[won] != nil {
			t.Errorf("different options: nobody wins: %v", errors.Join(errs[0], errs[1]))
			continue
		}
		loser.fails(errs[1-won], "it exists with other options", fmt.Sprintf(`uid is "%d", not "%d"`, won+1, 2-won), "remove it first")
		wins[winner.host.Name()]++
		err := bareWait(t, moment, func() error { // Get asks for half a second
			v, err := loser.get(name)
			if got := v.Status.Options["uid"]; err == nil && got != fmt.Sprint(won+1) {
				t.Errorf("%s has volume %s with uid %s, the winner's is %d", loser.host.Name(), name, got, won+1)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	t.Logf("wins: %v", wins)
	records := bareRecords(t, a.onServer(""))
	if len(records) != 2*races {
		t.Errorf("there are %d records", len(records))
	}
	for name, r := range records {
		if !r.Made {
			t.Errorf("volume %s was made by neither host", name)
		}
	}
	bareTidy(t, a.onServer(""))
	a.holds("equal0", "")
	b.holds("equal0", "more")
}

// TestBadDayTwoHostsRace has both hosts create, mount, unmount and remove a few names
// as fast as they can. Whatever the order was, afterwards each volume is there or is
// not, and what a Mount has shown is never lost: it is in the volume or in the trash.
func TestBadDayTwoHostsRace(t *testing.T) {
	beside(t)
	a, b := bareTwo(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	const names, workers, rounds = 3, 2, 25
	allowed := []string{
		"no such volume", "it is being removed", "is gone", "another host may have removed it",
		"finish its removal first", // both hosts finish one removal
		"uses it since",            // the other host has it mounted
		"removed it meanwhile",     // by a Mount of a volume half made; a Create begins anew
		"has made it meanwhile",    // a removal that was about to take a new volume
		"has changed it meanwhile", // a removal that began anew too often
		"had it stay",              // a removal that another host has undone
	}
	var (
		mu      sync.Mutex
		counted = map[string]int{}
	)
	worker := func(p *barePlugin, n uint64) {
		random := rand.New(rand.NewPCG(seed, n))
		for round := range rounds {
			name := fmt.Sprintf("race%d", random.IntN(names))
			id := fmt.Sprintf("%s-%d-%d", p.host.Name(), n, round)
			var what string
			var err error
			switch random.IntN(4) {
			case 0:
				what, err = "Create", p.create(name)
			case 1:
				what, err = "Remove", p.remove(name)
			default:
				what = "Mount"
				if _, err = p.mount(name, id); err == nil {
					what, err = "Unmount", p.unmount(name, id)
				}
			}
			mu.Lock()
			outcome := what + " works"
			if err != nil {
				outcome = what + ": " + err.Error()
			}
			known := err == nil
			for _, words := range allowed {
				if err != nil && strings.Contains(err.Error(), words) {
					known, outcome = true, what+": "+words
				}
			}
			counted[outcome]++
			mu.Unlock()
			if !known {
				t.Errorf("%s of %s on %s: %v", what, name, p.host.Name(), err)
			}
		}
	}
	var group sync.WaitGroup
	for n := range uint64(workers) {
		group.Go(func() { worker(a, 2*n) })
		group.Go(func() { worker(b, 2*n+1) })
	}
	group.Wait()
	for outcome, n := range counted {
		t.Logf("%3d × %s", n, outcome)
	}
	bareTidy(t, a.onServer(""))
	for n := range names {
		name := fmt.Sprintf("race%d", n)
		for _, p := range []*barePlugin{a, b} {
			p.mustCreate(name)
		}
		a.holds(name, "")
		b.holds(name, "more")
		b.mustRemove(name)
	}
	bareTidy(t, a.onServer(""))
	a.leavesNothing()
	b.leavesNothing()
}

// TestBadDayTwoHostsCreateWhileRemoving is the closest of those races: a volume is
// made anew on one host at the moment when the other removes it.
func TestBadDayTwoHostsCreateWhileRemoving(t *testing.T) {
	beside(t)
	a, b := bareTwo(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := range races / 2 {
		name := fmt.Sprintf("web%d", i)
		a.mustCreate(name)
		pause := time.Duration(random.IntN(40)) * time.Millisecond
		var created, removed error
		together(
			func() { removed = a.remove(name) },
			func() { time.Sleep(pause); created = b.create(name) },
		)
		if err := errors.Join(removed, created); err != nil {
			t.Errorf("%s, Create %v after Remove: %v", name, pause, err)
		}
	}
	bareTidy(t, a.onServer(""))
}

// TestBadDayTwoHostsSweep has one host sweep away what crashes left, as it does after
// each removal with deletion, while the other has many records on their way: while a
// file is being made, a server may show any time for it.
func TestBadDayTwoHostsSweep(t *testing.T) {
	beside(t)
	a, b := bareTwo(t)
	const creators, each = 8, 15
	a.mustCreate("first")
	done := make(chan struct{})
	calls := []func(){func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			name := fmt.Sprint("deleted", i)
			if err := errors.Join(b.create(name, "remove=delete"), b.remove(name)); err != nil {
				t.Error(err)
			}
		}
	}}
	var creating sync.WaitGroup
	for n := range creators {
		creating.Add(1)
		calls = append(calls, func() {
			defer creating.Done()
			for i := range each {
				if err := a.create(fmt.Sprintf("web%d-%d", n, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	together(append(calls, func() { creating.Wait(); close(done) })...)
	if got := bareRecords(t, a.onServer("")); len(got) != 1+creators*each {
		t.Errorf("there are %d records, want %d", len(got), 1+creators*each)
	}
}

// TestBadDayTwoHostsDelete has two hosts delete one tree at the same time: each meets directories that the other
// has removed while it had them open.
func TestBadDayTwoHostsDelete(t *testing.T) {
	beside(t)
	a, b := bareTwo(t)
	a.mustCreate("first")
	deleting := a.onServer(bareCatalogue + "/deleting")
	for dir := range 30 {
		for _, part := range []string{"x", "y/z"} {
			path := filepath.Join(deleting, "20260101T000000Z-ABCDEF-big", "data", fmt.Sprint(dir), part)
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			for file := range 10 {
				if err := os.WriteFile(filepath.Join(path, fmt.Sprint(file)), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	together(
		func() { a.mustCreate("small-a", "remove=delete"); a.mustRemove("small-a") },
		func() { b.mustCreate("small-b", "remove=delete"); b.mustRemove("small-b") },
	)
	err := bareWait(t, time.Minute, func() error {
		if left, err := os.ReadDir(deleting); err != nil || len(left) > 0 {
			return fmt.Errorf("left are %v, %w", left, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, p := range []*barePlugin{a, b} {
		if said := p.sh("grep 'delete in the background' " + p.dir + "/log || true"); said != "" {
			t.Errorf("%s tells of another's deletion as of its own failure: %s", p.host.Name(), said)
		}
	}
}

func TestBadDayRemovedOnAnotherHost(t *testing.T) {
	beside(t)
	a, b := bareTwo(t)
	a.mustCreate("web")
	mountpoint := a.mustMount("web", "1")
	a.sh("cd " + mountpoint + " && echo before >file && sync file")
	b.fails(b.remove("web"), "host host-a uses it since", "stop its containers there first")
	// As if it had been taken for dead, which takes minutes; it renews its entry every ten seconds.
	err := bareWait(t, 30*time.Second, func() error {
		a.rewrite(bareCatalogue+"/hosts", "rm -f $f/*")
		return b.remove("web")
	})
	if err != nil {
		t.Fatal(err)
	}

	a.sh("cd " + mountpoint + ` && [ "$(cat file)" = before ] && echo after >>file && sync file`)
	entries, err := filepath.Glob(a.onServer(bareCatalogue + "/trash/*-web/data/file"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("in the trash is %v, %v", entries, err)
	}
	if got, err := os.ReadFile(entries[0]); err != nil || string(got) != "before\nafter\n" {
		t.Errorf("the trash holds %q, %v", got, err)
	}
	trouble := "another host has removed this volume while containers here use it"
	err = bareWait(t, moment, func() error {
		if v := a.mustGet("web"); len(v.Status.Trouble) == 0 || v.Status.Trouble[0] != trouble {
			return fmt.Errorf("Status does not say it: %+v", v.Status)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	_, err = a.mount("web", "2")
	a.fails(err, "another host may have removed it", "no such volume")
	a.mustUnmount("web", "1")
	a.leavesNothing()

	// Made anew it is another volume, and its Status is not the old one's.
	b.mustCreate("web", "uid=7")
	a.holds("web", "")
	if v := a.mustGet("web"); v.Status.Options["uid"] != "7" || len(v.Status.Trouble) > 0 {
		t.Errorf("Status of the new volume is %+v", v.Status)
	}
}

// TestBadDayVolumesShareADirectory has hosts that have not heard of each other's
// volumes yet.
func TestBadDayVolumesShareADirectory(t *testing.T) {
	beside(t)
	a, b := bareTwo(t)
	for _, remove := range []string{"trash", "delete"} {
		a.mustCreate("first", "path=/shared", "remove="+remove)
		a.holds("first", "")
		b.mustCreate("second", "path=/shared")
		a.mustRemove("first")
		b.holds("second", "more")
		b.mustRemove("second")
		a.rewrite("shared", "rm -r $f")

		a.mustCreate("outer", "remove="+remove)
		b.mustCreate("inner", "path=/outer/inner")
		b.holds("inner", "")
		a.fails(a.remove("outer"), `volume "inner" lies inside its directory (/outer/inner)`, "remove that one first")
		b.holds("inner", "more")
		b.mustRemove("inner")
		a.mustRemove("outer")
	}
	bareTidy(t, a.onServer(""))
}

// TestBadDayMovedByAnotherHost has another host remove a volume and make one of its
// name with other options while this one knows the old one.
func TestBadDayMovedByAnotherHost(t *testing.T) {
	beside(t)
	a, b := bareTwo(t)
	elsewhere := bareElsewhere(t, a)
	a.mustCreate("web", "remove=keep")
	a.holds("web", "")
	b.mustRemove("web")
	b.mustCreate("web", "path=/other")
	b.holds("web", "")
	b.holds("web", "more")
	a.holds("web", "more\nmore")
	b.mustRemove("web")

	b.mustCreate("web", elsewhere)
	b.holds("web", "")
	a.holds("web", "more")
	if v := a.mustGet("web"); "filesystem="+v.Status.FileSystem != elsewhere {
		t.Errorf("Status is %+v", v.Status)
	}
	a.mustRemove("web")
	if _, err := os.Stat(a.onServer("web/held")); err != nil {
		t.Errorf("the data that was to be kept is gone: %v", err)
	}

	a.mustCreate("web", elsewhere)
	b.mustRemove("web")
	b.mustCreate("web", "path=/third")
	b.holds("web", "")
	a.holds("web", "more")
	a.mustRemove("web")
}
