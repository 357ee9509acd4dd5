package driver_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

// usedBy is what Status says of who uses a volume, after a fresh look.
func (h *testHost) usedBy(name string) []string {
	h.t.Helper()
	users, _ := h.status(name)["used_by"].([]string)
	return users
}

func names(hosts ...*testHost) func(o *driver.Options) {
	return func(o *driver.Options) { o.Host = fmt.Sprintf("web-%d", len(hosts)+1) }
}

func TestVolumeInUseElsewhereIsNotRemoved(t *testing.T) {
	for _, row := range []struct {
		name    string
		options []string
		adopted bool
	}{
		{"to the trash", nil, false},
		{"for good", []string{"remove=delete"}, false},
		{"from the catalogue only", []string{"remove=keep"}, false},
		{"whose directory was there before", nil, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			shared := t.TempDir()
			if row.adopted {
				if err := os.Mkdir(filepath.Join(shared, "data"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			a := newHost(t, shared, names())
			b := newHost(t, shared, names(a))
			a.create("data", row.options...)
			a.mount("data", "1")
			a.write("data", "rows", "three")
			err := b.Remove(t.Context(), "data")
			wantKind(t, err, driver.Conflict, "host web-1 uses it since", "stop its containers there first", "2m0s")
			b.mount("data", "2")
			b.wantFile("data", "rows", "three")
			b.unmount("data", "2")
			a.unmount("data", "1")
			eventually(t, "it can be removed once it is used nowhere", func() bool { return b.Remove(t.Context(), "data") == nil })
		})
	}
}

func TestStatusTellsWhoUsesAVolume(t *testing.T) {
	shared := t.TempDir()
	often := func(o *driver.Options) { o.Check = 20 * time.Millisecond }
	a := newHost(t, shared, names(), often)
	b := newHost(t, shared, names(a), often)
	a.create("data")
	a.mount("data", "1")
	b.mount("data", "2")
	for _, h := range []*testHost{a, b} {
		users := h.usedBy("data")
		if len(users) == 0 || !strings.HasPrefix(users[0], h.options.Host+" since ") {
			t.Errorf("%s itself says %v", h.options.Host, users)
		}
	}
	// A look serves for some seconds; a restart begins without one.
	b.restart()
	eventually(t, "both are told", func() bool {
		users := b.usedBy("data")
		return len(users) == 2 && strings.HasPrefix(users[0], "web-2 since ") && strings.HasPrefix(users[1], "web-1 since ")
	})
	if mounted := b.Overview().Mounted; len(mounted) != 1 || !slices.Equal(mounted[0].Elsewhere, []string{"web-1"}) {
		t.Errorf("the overview says %+v", mounted)
	}
}

// A removal looks, and then asks what was seen: not what another look had found before.
func TestALookThatEndsLateDoesNotHideWhatANewerOneHasSeen(t *testing.T) {
	shared := t.TempDir()
	a := newHost(t, shared, names())
	b := newHost(t, shared, names(a))
	a.create("data")
	err := b.LookSlowly(t.Context(), func() {
		a.mount("data", "1")
		wantKind(t, b.Remove(t.Context(), "data"), driver.Conflict, "web-1 uses it")
	})
	if err != nil {
		t.Fatal(err)
	}
	if users := b.usedBy("data"); len(users) != 1 {
		t.Errorf("it is used by %v", users)
	}
}

func TestOverviewTellsWhatOtherHostsUse(t *testing.T) {
	shared := t.TempDir()
	often := func(o *driver.Options) { o.Check = 20 * time.Millisecond }
	a := newHost(t, shared, names())
	b := newHost(t, shared, names(a))
	for _, name := range []string{"theirs", "both", "unused"} {
		a.create(name)
	}
	for _, h := range []*testHost{a, b} {
		h.mount("both", "1")
		h.mount("theirs", "1")
	}
	c := newHost(t, shared, often, func(o *driver.Options) { o.Host = "web-3" })
	c.mount("both", "1")
	want := []status.Used{{Name: "theirs", FileSystem: "dir:" + shared, By: []string{"web-1", "web-2"}}}
	eventually(t, "it tells of the one that is not mounted here", func() bool { return reflect.DeepEqual(c.Overview().Elsewhere, want) })
	if o := a.Overview(); len(o.Mounted) != 2 || len(o.Elsewhere) != 0 {
		t.Errorf("of the volumes that are mounted there it is %+v, elsewhere %+v", o.Mounted, o.Elsewhere)
	}
}

// Of a mount and a removal on two hosts at the same moment, one is refused.
func TestMountOnOneHostAndRemoveOnAnotherAtTheSameMoment(t *testing.T) {
	for _, remove := range []string{"trash", "keep"} {
		t.Run("with remove="+remove, func(t *testing.T) {
			// A removal that is refused waits a moment first.
			synctest.Test(t, func(t *testing.T) { mountsAndRemovals(t, remove) })
		})
	}
}

func mountsAndRemovals(t *testing.T, remove string) {
	t.Helper()
	shared := t.TempDir()
	k := func(o *driver.Options) { o.Kernel = &faults{} }
	a, b := newHost(t, shared, k), newHost(t, shared, k)
	refused := [2]int{}
	for i := range 200 {
		name := fmt.Sprint("v", i)
		a.create(name, "remove="+remove)
		b.status(name)
		removed := make(chan error)
		go func() { removed <- b.Remove(t.Context(), name) }()
		_ = syscall.Nanosleep(&syscall.Timespec{Nsec: rand.Int64N(1e6)}, nil)
		mountErr := a.Mount(t.Context(), name, "1", func(string) error { return nil })
		removeErr := <-removed
		there := exists(t, filepath.Join(shared, name))
		switch {
		case mountErr == nil && removeErr == nil:
			t.Fatalf("%s is mounted and removed", name)
		case mountErr == nil && !there:
			t.Fatalf("%s is mounted and its data is gone", name)
		case mountErr == nil:
			refused[1]++
			b.mount(name, "2") // the refused removal is undone
			b.unmount(name, "2")
		case removeErr == nil:
			refused[0]++
		}
		a.unmount(name, "1")
	}
	t.Logf("refused: %d mounts, %d removals", refused[0], refused[1])
}

// pass lets time go by for the plugin, and some for the file system, which has its own clock.
func pass(d time.Duration) {
	const step = 10 * time.Second
	for ; d > 0; d -= step {
		time.Sleep(step)
		synctest.Wait()
		_ = syscall.Nanosleep(&syscall.Timespec{Nsec: 5e6}, nil)
	}
}

// hostsInABubble are two hosts whose hours pass at once.
func hostsInABubble(t *testing.T, test func(t *testing.T, shared string, a, b *testHost)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		shared := t.TempDir()
		fast := func(o *driver.Options) { o.Kernel, o.Check = &faults{}, 10*time.Second }
		a := newHost(t, shared, fast, names())
		b := newHost(t, shared, fast, names(a))
		a.create("data")
		a.mount("data", "1")
		test(t, shared, a, b)
	})
}

func entries(t *testing.T, shared string) int {
	t.Helper()
	all, err := os.ReadDir(filepath.Join(shared, ".docker-volume-efs/hosts"))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// As docker compose down on one host and docker volume rm on another do.
func TestRemovalWaitsForAHostThatHasJustUnmounted(t *testing.T) {
	hostsInABubble(t, func(t *testing.T, shared string, a, b *testHost) {
		a.unmount("data", "1")
		b.remove("data")
		a.create("data")
		a.mount("data", "2")
		if err := os.WriteFile(filepath.Join(shared, ".docker-volume-efs/volumes/data.json"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		a.unmount("data", "2")
		b.create("data") // which makes the damaged record again
	})
}

func TestHostsThatAreNotHeardOf(t *testing.T) {
	t.Run("count as dead after two minutes", func(t *testing.T) {
		hostsInABubble(t, func(t *testing.T, shared string, a, b *testHost) {
			a.stop()
			wantKind(t, b.Remove(t.Context(), "data"), driver.Conflict, "web-1")
			pass(time.Minute)
			wantKind(t, b.Remove(t.Context(), "data"), driver.Conflict, "web-1")
			pass(3 * time.Minute)
			b.remove("data")
			if n := entries(t, shared); n != 0 {
				t.Errorf("%d entries are left", n)
			}
			a.start() // the test ends it
		})
	})
	t.Run("are not those that live", func(t *testing.T) {
		hostsInABubble(t, func(t *testing.T, _ string, a, b *testHost) {
			pass(10 * time.Minute)
			wantKind(t, b.Remove(t.Context(), "data"), driver.Conflict, "web-1")
		})
	})
	t.Run("are not those that this host could not see itself, until it has looked for two minutes", func(t *testing.T) {
		hostsInABubble(t, func(t *testing.T, _ string, a, b *testHost) {
			a.die()
			wantKind(t, b.Remove(t.Context(), "data"), driver.Conflict, "web-1")
			revive := b.die()
			pass(5 * time.Minute)
			revive()
			pass(20 * time.Second)
			wantKind(t, b.Remove(t.Context(), "data"), driver.Conflict, "web-1")
			pass(3 * time.Minute)
			b.remove("data")
		})
	})
	t.Run("tell again what they use when they are back", func(t *testing.T) {
		hostsInABubble(t, func(t *testing.T, shared string, a, b *testHost) {
			if err := os.RemoveAll(filepath.Join(shared, ".docker-volume-efs/hosts")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(shared, ".docker-volume-efs/hosts"), 0o700); err != nil {
				t.Fatal(err)
			}
			a.restart()
			b.restart()
			pass(20 * time.Second)
			wantKind(t, b.Remove(t.Context(), "data"), driver.Conflict, "web-1")
		})
	})
	t.Run("were taken for dead by mistake", func(t *testing.T) {
		hostsInABubble(t, func(t *testing.T, shared string, a, b *testHost) {
			pass(20 * time.Second)
			all, err := filepath.Glob(filepath.Join(shared, ".docker-volume-efs/hosts/*.json"))
			if err != nil || len(all) != 1 {
				t.Fatal(all, err)
			}
			if err := os.Remove(all[0]); err != nil {
				t.Fatal(err)
			}
			pass(20 * time.Second)
			wantKind(t, b.Remove(t.Context(), "data"), driver.Conflict, "web-1")
		})
	})
}

func TestPresenceOverRestarts(t *testing.T) {
	t.Run("of the plugin stays", func(t *testing.T) {
		shared := t.TempDir()
		a, b := newHost(t, shared, names()), newHost(t, shared)
		a.create("data")
		a.mount("data", "1")
		a.restart()
		wantKind(t, b.Remove(t.Context(), "data"), driver.Conflict, "web-1")
		a.mount("data", "2")
		a.create("other")
		a.mount("other", "1") // an entry without the first one would be a lie
		wantKind(t, b.Remove(t.Context(), "data"), driver.Conflict, "web-1")
	})
	t.Run("of the plugin is renewed on a file system that nobody asks for", func(t *testing.T) {
		elsewhere := t.TempDir()
		a := newHost(t, t.TempDir(), func(o *driver.Options) { o.Check = 20 * time.Millisecond })
		a.create("data", "filesystem=dir:"+elsewhere)
		a.mount("data", "1")
		a.stop()
		all, err := filepath.Glob(filepath.Join(elsewhere, ".docker-volume-efs/hosts/*"))
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(all[0], old, old); err != nil {
			t.Fatal(err)
		}
		a.start()
		eventually(t, "the entry is renewed", func() bool {
			info, err := os.Stat(all[0])
			return err == nil && info.ModTime().After(old.Add(time.Minute))
		})
	})
	t.Run("of a volume that is removed here ends, left over or not", func(t *testing.T) {
		shared := t.TempDir()
		k := &faults{}
		a, b := newHost(t, shared, names(), func(o *driver.Options) { o.Kernel = k }), newHost(t, shared)
		a.create("data")
		a.create("other")
		a.mount("data", "1")
		a.mount("other", "1")
		a.stop()
		if mounted, err := k.Detach(a.point("data")); !mounted || err != nil {
			t.Fatal(mounted, err)
		}
		a.start()
		wantKind(t, b.Remove(t.Context(), "data"), driver.Conflict, "web-1")
		a.remove("data")
		b.create("data")
		b.remove("data") // nobody uses the new one
	})
	t.Run("of a mount that Docker never heard of ends", func(t *testing.T) {
		shared := t.TempDir()
		a, b := newHost(t, shared, names()), newHost(t, shared)
		a.create("data")
		a.stop()
		boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			t.Fatal(err)
		}
		a.rewriteState("mounts", fmt.Sprintf(`{"boot":%q,"counts":{"1":1},"unanswered":"1"}`, strings.TrimSpace(string(boot))))
		a.start()
		a.create("other")
		a.mount("other", "1") // which writes the entry
		b.remove("data")
	})
	t.Run("of the host ends", func(t *testing.T) {
		shared := t.TempDir()
		a, b := newHost(t, shared), newHost(t, shared)
		a.create("data")
		a.mount("data", "1")
		a.stop()
		a.rewriteState("mounts", `{"boot":"another boot","counts":{"1":1}}`)
		a.start()
		eventually(t, "it can be removed", func() bool { return b.Remove(t.Context(), "data") == nil })
	})
	t.Run("with nothing in use any more leaves no entry", func(t *testing.T) {
		shared := t.TempDir()
		a := newHost(t, shared)
		a.create("data")
		a.mount("data", "1")
		a.unmount("data", "1")
		a.stop()
		if n := entries(t, shared); n != 0 {
			t.Errorf("%d entries are left", n)
		}
		a.start()
	})
}

// A volume keeps the address at which its host has learned of it, and the setting may change.
func TestVolumesAtTwoAddressesOfOneFileSystemAreAllTold(t *testing.T) {
	hostsInABubble(t, func(t *testing.T, shared string, a, b *testHost) {
		a.stop()
		a.options.FileSystem.Dir = anotherAddress(t, shared)
		a.start()
		a.create("later")
		a.mount("later", "1")
		for range 2 {
			for _, name := range []string{"data", "later"} {
				wantKind(t, b.Remove(t.Context(), name), driver.Conflict, "web-1 uses it")
			}
			pass(3 * time.Minute)
		}
		if other := a.Overview().Elsewhere; len(other) != 0 {
			t.Errorf("the host takes itself for another: %+v", other)
		}
		a.unmount("later", "1")
		pass(10 * time.Second)
		wantKind(t, b.Remove(t.Context(), "data"), driver.Conflict, "web-1 uses it")
		b.remove("later")
		a.unmount("data", "1")
		pass(10 * time.Second)
		b.remove("data")
		if n := entries(t, shared); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
}

func TestManyMountsAtOnceAreAllTold(t *testing.T) {
	synctest.Test(t, manyMounts)
}

func manyMounts(t *testing.T) {
	shared := t.TempDir()
	k := func(o *driver.Options) { o.Kernel = &faults{} }
	a, b := newHost(t, shared, names(), k), newHost(t, shared, k)
	var all sync.WaitGroup
	for i := range 50 {
		name := fmt.Sprint("v", i)
		a.create(name)
		all.Go(func() {
			if err := a.Mount(t.Context(), name, "1", func(string) error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i := range 50 {
		wantKind(t, b.Remove(t.Context(), fmt.Sprint("v", i)), driver.Conflict, "web-1")
	}
}

// A host that may only read can use volumes; the others cannot be told.
func TestHostThatMayNotWrite(t *testing.T) {
	shared, readOnly := t.TempDir(), t.TempDir()
	a := newHost(t, shared)
	a.create("data")
	if err := errors.Join(
		syscall.Mount(shared, readOnly, "", syscall.MS_BIND, ""),
		syscall.Mount("", readOnly, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(readOnly, syscall.MNT_DETACH) })
	b := newHost(t, readOnly)
	b.mount("data", "1")
	if trouble := fmt.Sprint(b.status("data")["trouble"]); !strings.Contains(trouble, "cannot be told") || !strings.Contains(trouble, "read-only") {
		t.Errorf("trouble %q", trouble)
	}
}

// Others see no sign of life any more: that volumes in use are in its entry does not help them.
func TestHostThatMayNotWriteAnyMore(t *testing.T) {
	shared := t.TempDir()
	if err := syscall.Mount("test", shared, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(shared, syscall.MNT_DETACH) })
	a := newHost(t, shared, func(o *driver.Options) { o.Check = 20 * time.Millisecond })
	a.create("data")
	a.mount("data", "1")
	if err := syscall.Mount("", shared, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "size=1m"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its trouble is told", func() bool {
		trouble := fmt.Sprint(a.status("data")["trouble"])
		return strings.Contains(trouble, "cannot be told") && strings.Contains(trouble, "read-only")
	})
}

func TestHostOfAFullFileSystemHasToldBefore(t *testing.T) {
	shared := t.TempDir()
	if err := syscall.Mount("test", shared, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(shared, syscall.MNT_DETACH) })
	a := newHost(t, shared)
	a.create("told")
	a.create("untold")
	a.mount("told", "1")
	if err := os.WriteFile(filepath.Join(shared, "ballast"), make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	a.mount("untold", "1")
	if trouble := fmt.Sprint(a.status("untold")["trouble"]); !strings.Contains(trouble, "cannot be told") {
		t.Errorf("the new one has the trouble %q", trouble)
	}
	if trouble := a.status("told")["trouble"]; trouble != nil {
		t.Errorf("the one that the others know of has the trouble %v", trouble)
	}
	a.options.Check = 20 * time.Millisecond
	a.restart()
	before := time.Now()
	entries, err := filepath.Glob(filepath.Join(shared, ".docker-volume-efs/hosts/*.json"))
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	eventually(t, "its next run gives signs of life", func() bool {
		info, err := os.Stat(entries[0])
		return err == nil && info.ModTime().After(before)
	})
	if trouble := a.status("told")["trouble"]; trouble != nil {
		t.Errorf("after a restart the one that the others know of has the trouble %v", trouble)
	}
}
