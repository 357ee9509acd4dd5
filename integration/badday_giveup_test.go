//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestBadDayDockerGivesUp has the caller close its connection in the middle of calls,
// as Docker does when its own caller goes away or its time is over.
func TestBadDayDockerGivesUp(t *testing.T) {
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
	if took := time.Since(start); took > time.Second {
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

// bareElsewhere is the option that puts a volume on the second server.
func bareElsewhere(t *testing.T, p *barePlugin) string {
	t.Helper()
	second, err := p.lab.SecondServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("filesystem=nfs://%s/export", second.Addr("a"))
}
