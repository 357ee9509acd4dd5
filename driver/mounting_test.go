package driver_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
)

func TestCounts(t *testing.T) {
	t.Run("are kept per mount ID", func(t *testing.T) {
		h := newHost(t, t.TempDir())
		h.create("data")
		h.mount("data", "container")
		h.mount("data", "container") // docker cp on a running container
		h.mount("data", "other")
		h.wantCounts("data", map[string]int{"container": 2, "other": 1})
		h.unmount("data", "container")
		h.wantCounts("data", map[string]int{"container": 1, "other": 1})
	})
	t.Run("ignore an unknown ID and an unknown volume", func(t *testing.T) {
		h := newHost(t, t.TempDir())
		h.create("data")
		h.mount("data", "1")
		h.unmount("data", "never-was")
		h.unmount("no-such-volume", "1")
		h.wantCounts("data", map[string]int{"1": 1})
	})
	t.Run("stay over a crash of the plugin", func(t *testing.T) {
		h := newHost(t, t.TempDir())
		h.create("data")
		h.mount("data", "1")
		h.restart()
		h.wantCounts("data", map[string]int{"1": 1})
		h.unmount("data", "1")
		eventually(t, "the volume is detached", func() bool { return !h.mounted()["data"] })
	})
	t.Run("are void when the mount is gone", func(t *testing.T) {
		h := newHost(t, t.TempDir())
		h.create("data")
		h.mount("data", "1")
		h.stop()
		if _, err := mount.Detach(h.point("data")); err != nil {
			t.Fatal(err)
		}
		h.start()
		if h.status("data")["mounted"] != false {
			t.Error("the volume counts as mounted")
		}
		h.wantCounts("data", nil)
	})
	t.Run("are void after a reboot", func(t *testing.T) {
		h := newHost(t, t.TempDir())
		h.create("data")
		h.mount("data", "1")
		h.stop()
		h.rewriteState("mounts", `{"boot":"another boot","counts":{"1":1}}`)
		h.start()
		eventually(t, "the volume is detached", func() bool { return !h.mounted()["data"] })
		h.wantCounts("data", nil)
	})
	t.Run("leave a call out whose answer was cut off by a crash", func(t *testing.T) {
		h := newHost(t, t.TempDir())
		h.create("data")
		h.mount("data", "1")
		h.stop()
		boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			t.Fatal(err)
		}
		h.rewriteState("mounts", `{"boot":"`+string(boot[:36])+`","counts":{"1":1,"2":1},"unanswered":"2"}`)
		h.start()
		h.wantCounts("data", map[string]int{"1": 1})
	})
}

func TestCountsLeaveOutACallThatACrashCutsOff(t *testing.T) {
	h := newHost(t, t.TempDir())
	h.create("data")
	state := filepath.Join(h.options.Data, "state/mounts")
	var atCrash []byte
	err := h.Mount(t.Context(), "data", "1", func(string) (err error) {
		atCrash, err = os.ReadFile(state)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h.stop()
	if err := os.WriteFile(state, atCrash, 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.wantCounts("data", map[string]int{})
}

func TestMountWithoutCountIsDetached(t *testing.T) {
	h := newHost(t, t.TempDir())
	h.create("data")
	h.mount("data", "1")
	h.stop()
	if err := os.Remove(filepath.Join(h.options.Data, "state/mounts")); err != nil {
		t.Fatal(err)
	}
	h.start()
	eventually(t, "the mount that nobody counts is detached", func() bool { return !h.mounted()["data"] })
}

func TestVolumeStaysWarmForAMoment(t *testing.T) {
	h := newHost(t, t.TempDir(), func(o *driver.Options) { o.Warm = time.Hour })
	h.create("data")
	h.mount("data", "1")
	before := h.status("data")["mounted_since"]
	h.unmount("data", "1")
	if !h.mounted()["data"] {
		t.Fatal("the volume was detached at once")
	}
	h.mount("data", "2")
	if after := h.status("data")["mounted_since"]; after != before {
		t.Error("the volume was mounted anew")
	}
}

func TestWarmTime(t *testing.T) {
	t.Run("is ten seconds if nobody says otherwise", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k := &faults{}
			h := newHost(t, t.TempDir(), func(o *driver.Options) { o.Kernel, o.Warm = k, 0 })
			h.create("data")
			h.mount("data", "1")
			h.unmount("data", "1")
			time.Sleep(9 * time.Second)
			if !k.isMounted(h.point("data")) {
				t.Error("detached too early")
			}
			time.Sleep(2 * time.Second)
			if k.isMounted(h.point("data")) {
				t.Error("not detached")
			}
		})
	})
	t.Run("does not begin while another ID holds the volume", func(t *testing.T) {
		bubble(t, func(t *testing.T, k *faults, h *testHost) {
			h.create("data")
			h.mount("data", "1")
			h.mount("data", "2")
			h.unmount("data", "1")
			time.Sleep(10 * warm)
			if !k.isMounted(h.point("data")) {
				t.Error("detached in use")
			}
		})
	})
	t.Run("begins anew with each use", func(t *testing.T) {
		bubble(t, func(t *testing.T, k *faults, h *testHost) {
			h.create("data")
			for range 5 {
				h.mount("data", "1")
				h.unmount("data", "1")
				time.Sleep(warm * 3 / 4)
				if !k.isMounted(h.point("data")) {
					t.Fatal("detached too early")
				}
			}
			time.Sleep(warm)
			if k.isMounted(h.point("data")) {
				t.Error("not detached")
			}
		})
	})
}

func TestDetachedVolumeLeavesNothingBehind(t *testing.T) {
	h := newHost(t, t.TempDir())
	h.create("data")
	h.mount("data", "1")
	h.unmount("data", "1")
	eventually(t, "mount and mountpoint are gone", func() bool {
		_, err := os.Stat(h.point("data"))
		return !h.mounted()["data"] && errors.Is(err, os.ErrNotExist)
	})
}

func TestMountThatDockerGaveUpOnDoesNotCount(t *testing.T) {
	for what, deliver := range map[string]struct {
		ctx  func(context.Context) context.Context
		fail error
	}{
		"the answer does not leave": {func(ctx context.Context) context.Context { return ctx }, errors.New("broken pipe")},
		"the context has ended":     {ended, nil},
	} {
		t.Run(what, func(t *testing.T) {
			h := newHost(t, t.TempDir())
			h.create("data")
			err := h.Mount(deliver.ctx(t.Context()), "data", "1", func(string) error { return deliver.fail })
			if err == nil {
				t.Fatal("no error")
			}
			h.wantCounts("data", map[string]int{})
			eventually(t, "the volume is detached", func() bool { return !h.mounted()["data"] })
			h.mount("data", "1")
			h.wantCounts("data", map[string]int{"1": 1})
		})
	}
}

// ended lets a mount begin and is over when it is to be answered: the volume's
// own questions to a local directory do not look at it.
func ended(ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
	go func() {
		<-ctx.Done()
		cancel()
	}()
	return lateContext{ctx}
}

// lateContext ends without telling: only who asks for the error sees it.
type lateContext struct{ context.Context }

func (lateContext) Done() <-chan struct{}       { return nil }
func (lateContext) Err() error                  { return context.Canceled }
func (lateContext) Deadline() (time.Time, bool) { return time.Time{}, false }

func TestReadOnlyVolumeRefusesWrites(t *testing.T) {
	h := newHost(t, t.TempDir())
	h.create("data", "readonly=true")
	h.mount("data", "1")
	if err := os.WriteFile(filepath.Join(h.point("data"), "file"), nil, 0o600); err == nil {
		t.Error("a read-only volume was written to")
	}
}

func TestWarmMountIsNotKeptForAVolumeThatBecameReadOnly(t *testing.T) {
	shared := t.TempDir()
	a := newHost(t, shared, func(o *driver.Options) { o.Warm = time.Hour })
	b := newHost(t, shared)
	a.create("data", "remove=keep")
	a.mount("data", "1")
	a.unmount("data", "1")
	b.removeSoon("data")
	b.create("data", "readonly=true")
	a.mount("data", "2")
	if err := os.WriteFile(filepath.Join(a.point("data"), "file"), nil, 0o600); err == nil {
		t.Error("a read-only volume was written to")
	}
}

func TestMountPutsNothingIntoTheVolume(t *testing.T) {
	shared := t.TempDir()
	h := newHost(t, shared)
	h.create("data")
	h.mount("data", "1")
	h.unmount("data", "1")
	if entries, err := os.ReadDir(filepath.Join(shared, "data")); err != nil || len(entries) > 0 {
		t.Errorf("it holds %v, %v", entries, err)
	}
}

func TestMountDoesNotInventAnEmptyDirectory(t *testing.T) {
	shared := t.TempDir()
	h := newHost(t, shared)
	h.create("data")
	if err := os.Remove(filepath.Join(shared, "data")); err != nil {
		t.Fatal(err)
	}
	err := h.Mount(t.Context(), "data", "1", func(string) error { return nil })
	wantKind(t, err, driver.Failed, "/data", "is gone", "restore it")
	if _, err := os.Stat(filepath.Join(shared, "data")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
	h.wantCounts("data", nil)
}

func TestReplacedDirectoryIsHealedForTheNextContainer(t *testing.T) {
	shared := t.TempDir()
	h := newHost(t, shared)
	h.create("data")
	h.mount("data", "old")
	h.write("data", "file", "old")
	if err := errors.Join(
		os.Rename(filepath.Join(shared, "data"), filepath.Join(shared, "away")),
		os.Mkdir(filepath.Join(shared, "data"), 0o755),
		os.WriteFile(filepath.Join(shared, "data/file"), []byte("new"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	h.wantFile("data", "file", "old")
	h.mount("data", "new")
	h.wantFile("data", "file", "new")
	h.wantCounts("data", map[string]int{"old": 1, "new": 1})
}

func TestPlantedLinkIsNotFollowed(t *testing.T) {
	for _, component := range []string{"a", "a/b", "a/b/c"} {
		t.Run("at "+component, func(t *testing.T) {
			shared := t.TempDir()
			h := newHost(t, shared)
			h.create("data", "path=/a/b/c")
			planted := filepath.Join(shared, component)
			if err := errors.Join(os.Rename(planted, filepath.Join(shared, "moved")), os.Symlink(t.TempDir(), planted)); err != nil {
				t.Fatal(err)
			}
			err := h.Mount(t.Context(), "data", "1", func(string) error { return nil })
			wantKind(t, err, driver.Failed, "symbolic link", "never followed")
			if h.mounted()["data"] {
				t.Error("something is mounted")
			}
		})
	}
}

func TestParallelMountsOfOneVolume(t *testing.T) {
	h := newHost(t, t.TempDir())
	h.create("data")
	const containers = 30
	var group sync.WaitGroup
	for i := range containers {
		group.Go(func() {
			id := string(rune('A' + i))
			if err := h.Mount(context.Background(), "data", id, func(string) error { return nil }); err != nil {
				t.Error(err)
			}
			if err := h.Unmount("data", id); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	h.wantCounts("data", map[string]int{})
	eventually(t, "the volume is detached", func() bool { return !h.mounted()["data"] })
}
