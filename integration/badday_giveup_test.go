//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestBadDayDockerGivesUp has the caller close its connection in the middle of calls,
// as Docker does when its own caller goes away or its time is over.
func TestBadDayDockerGivesUp(t *testing.T) {
	alone(t)
	l := hosts(t)
	second, err := l.SecondServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := startBare(t, l, "host-a", "EFS_FILESYSTEM=nfs://"+second.Addr("a").String()+"/export")
	for _, name := range []string{"warm", "cold", "old"} {
		p.mustCreate(name)
	}
	p.holds("warm", "")
	if err := second.Freeze(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = second.Thaw() })

	abandon := func(call string, request bareRequest) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		if err := p.call(ctx, call, request, &struct{}{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s of %s is not given up: %v", call, request.Name, err)
		}
	}
	together(
		func() { abandon("Mount", bareRequest{Name: "warm", ID: "1"}) },
		func() { abandon("Mount", bareRequest{Name: "cold", ID: "2"}) },
		func() { abandon("Create", bareRequest{Name: "new"}) },
		func() { abandon("Remove", bareRequest{Name: "old"}) },
	)
	p.unused()
	// What Docker does next does not wait for what it gave up.
	start := time.Now()
	for _, name := range []string{"warm", "cold", "old"} {
		p.mustGet(name)
	}
	p.mustUnmount("cold", "2")
	if took := time.Since(start); took > quick {
		t.Errorf("Get and Unmount took %v", took)
	}
	if err := second.Thaw(); err != nil {
		t.Fatal(err)
	}
	p.holds("warm", "more")
	p.holds("cold", "")
	p.mustCreate("new")
	p.holds("new", "")
	p.mustRemove("old")
	names, err := p.list()
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{"cold", "new", "warm"}) {
		t.Errorf("List says %v, %v", names, err)
	}
	p.leavesNothing()
}

// TestBadDayDockerGivesUpAtAnyMoment has a server that is well, and a caller that gives
// up at random moments of Mount. A mount counts only if its answer has left.
func TestBadDayDockerGivesUpAtAnyMoment(t *testing.T) {
	beside(t)
	p := startBare(t, hosts(t), "host-a")
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	p.mustCreate("web")
	p.holds("web", "")
	const tries = 100
	latest := 30 * time.Millisecond
	id := func(n int) string { return fmt.Sprintf("gone-%d-", n) }
	for n := range tries {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.Int64N(int64(latest))))
		var answer struct{ Mountpoint string }
		err := p.call(ctx, "Mount", bareRequest{Name: "web", ID: id(n)}, &answer)
		cancel()
		if err == nil {
			p.mustUnmount("web", id(n))
			latest -= latest / 8
		} else {
			latest += latest / 8
		}
	}
	// Calls end when the plugin notices that the caller has gone.
	time.Sleep(500 * time.Millisecond)
	log, late, rolledBack := p.log(), 0, 0
	for n := range tries {
		told := strings.Contains(log, "mount="+id(n)+" outcome=ok")
		if strings.Contains(log, "mount="+id(n)+" outcome=\"mount volume \\\"web\\\": rolled back") {
			rolledBack++
		}
		if p.counts("web")[id(n)] > 0 {
			late++
			if !told {
				t.Errorf("%s was given up, and counts", id(n))
			}
			p.mustUnmount("web", id(n))
		}
	}
	t.Logf("of %d, %d were given up when the answer had left, %d were rolled back", tries, late, rolledBack)
	p.holds("web", "more")
	p.leavesNothing()
}

// bareElsewhere is the option that puts a volume on the second server.
func bareElsewhere(t *testing.T, p *barePlugin) string {
	t.Helper()
	second, err := p.lab.SecondServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("filesystem=nfs://%s/export", second.Addr("a"))
}
