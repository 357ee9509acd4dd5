package catalog_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

// someKey is that of a volume data.
const someKey = "data@0123456789ab"

func mustLease(t *testing.T, c *catalog.Catalog, want string) {
	t.Helper()
	if got, err := c.Lease(someKey); err != nil || got != want {
		t.Errorf("the lease is %q, %v, want %q", got, err, want)
	}
}

func mustTake(t *testing.T, c *catalog.Catalog, from, to string, want bool) {
	t.Helper()
	if got, err := c.TakeLease(someKey, from, to); err != nil || got != want {
		t.Errorf("from %q to %q: %v, %v, want %v", from, to, got, err, want)
	}
}

func TestLease(t *testing.T) {
	root := t.TempDir()
	a, b := open(t, root), open(t, root)
	if _, err := a.Lease(someKey); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("before it is made: %v", err)
	}
	mustTake(t, a, "1", "2_a", false)
	must(t, a.MakeLease(someKey, "1"))
	must(t, b.MakeLease(someKey, "7")) // it was there
	mustLease(t, b, "1")
	mustTake(t, a, "1", "2_a", true)
	mustTake(t, b, "1", "2_b", false)
	mustTake(t, a, "1", "2_a", true) // repeated by a server that forgot that it had done it
	mustLease(t, b, "2_a")
	mustTake(t, b, "2_a", "3_b", true)
	mustTake(t, a, "2_a", "3_a", false)
	mustLease(t, a, "3_b")
	must(t, a.DropLease(someKey))
	must(t, b.DropLease(someKey))
	mustTake(t, b, "3_b", "4_b", false)
	must(t, b.MakeLease(someKey, "9"))
	mustLease(t, a, "9")
	wantNames(t, inside(root, "tmp"))
}

func TestLeaseWithSeveralNamesIsDamaged(t *testing.T) {
	root := t.TempDir()
	c := open(t, root)
	must(t, c.MakeLease(someKey, "1"))
	must(t, os.WriteFile(filepath.Join(inside(root, "leases"), someKey, "2"), nil, 0o600))
	if _, err := c.Lease(someKey); !errors.Is(err, catalog.ErrDamagedLease) {
		t.Errorf("two names are %v", err)
	}
}

func TestLeaseOfAnImpossibleVolume(t *testing.T) {
	c := open(t, t.TempDir())
	for _, name := range []string{"", "..", "data", "data@", "data@xyz", "../volumes@0123456789ab", "a/b@0123456789ab", "data@0123456789ab/"} {
		if _, err := c.Lease(name); err == nil || errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("lease of %q: %v", name, err)
		}
		if c.MakeLease(name, "1") == nil || c.DropLease(name) == nil {
			t.Errorf("a lease of %q can be made or dropped", name)
		}
	}
}

// Of many hosts that make the lease and take each step at once, one takes it.
func TestOneHostTakesEachStep(t *testing.T) {
	const contenders, steps = 8, 50
	root := t.TempDir()
	catalogs := make([]*catalog.Catalog, contenders)
	for i := range catalogs {
		catalogs[i] = open(t, root)
	}
	atOnce := func(do func(i int, c *catalog.Catalog)) {
		var all sync.WaitGroup
		for i, c := range catalogs {
			all.Go(func() { do(i, c) })
		}
		all.Wait()
	}
	atOnce(func(_ int, c *catalog.Catalog) {
		if err := c.MakeLease(someKey, "0"); err != nil {
			t.Error(err)
		}
	})
	for step := range steps {
		var winners atomic.Int32
		from, err := catalogs[0].Lease(someKey)
		must(t, err)
		atOnce(func(i int, c *catalog.Catalog) {
			won, err := c.TakeLease(someKey, from, fmt.Sprintf("%d_%d", step+1, i))
			if err != nil {
				t.Error(err)
			}
			if won {
				winners.Add(1)
			}
		})
		if n := winners.Load(); n != 1 {
			t.Fatalf("step %d was taken by %d", step, n)
		}
	}
	wantNames(t, inside(root, "tmp"))
}
