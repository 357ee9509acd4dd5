package driver_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// The tests of this file have a file system that does not answer. Docker waits 30 s
// at most, and takes a wrong answer for the truth.

// asked are the calls that need the file system; all but the first are for a volume
// that exists.
var asked = map[string]func(ctx context.Context, h *testHost) error{
	"Create of a new volume": func(ctx context.Context, h *testHost) error { return h.Create(ctx, "new", nil) },
	"Create":                 func(ctx context.Context, h *testHost) error { return h.Create(ctx, "data", nil) },
	"Mount":                  func(ctx context.Context, h *testHost) error { return mountOf(ctx, h, "data", "1") },
	"Remove":                 func(ctx context.Context, h *testHost) error { return h.Remove(ctx, "data") },
}

func TestDeadFileSystem(t *testing.T) {
	for what, call := range asked {
		t.Run("fails "+what+" in time, saying so", func(t *testing.T) {
			bubble(t, func(t *testing.T, _ *faults, h *testHost) {
				h.create("data")
				h.die()
				var err error
				if took := took(func() { err = call(t.Context(), h) }); took > 20*time.Second {
					t.Errorf("it took %v", took)
				}
				wantKind(t, err, driver.Unavailable, "does not answer", "port 2049")
			})
		})
		t.Run("lets "+what+" end with its context", func(t *testing.T) {
			bubble(t, func(t *testing.T, _ *faults, h *testHost) {
				h.create("data")
				h.die()
				ctx, giveUp := context.WithTimeout(t.Context(), time.Second)
				defer giveUp()
				var err error
				if took := took(func() { err = call(ctx, h) }); err == nil || took != time.Second {
					t.Errorf("it took %v: %v", took, err)
				}
			})
		})
		t.Run("that was never mounted fails "+what+" in time", func(t *testing.T) {
			bubble(t, func(t *testing.T, k *faults, h *testHost) {
				h.create("data")
				h.stop()
				k.hang(t, "open", h.options.FileSystem.Dir)
				h.start()
				var err error
				if took := took(func() { err = call(t.Context(), h) }); took > 20*time.Second {
					t.Errorf("it took %v", took)
				}
				wantKind(t, err, driver.Unavailable, "does not answer")
			})
		})
	}
	t.Run("is not waited for by Get of a known volume, Path and Unmount", func(t *testing.T) {
		bubble(t, func(t *testing.T, _ *faults, h *testHost) {
			h.create("data")
			h.mount("data", "1")
			h.die()
			if took := took(func() {
				h.status("data")
				if point, err := h.Mountpoint(t.Context(), "data"); err != nil || point != h.point("data") {
					t.Errorf("path %s, %v", point, err)
				}
				h.unmount("data", "1")
			}); took != 0 {
				t.Errorf("it took %v", took)
			}
		})
	})
	t.Run("delays List a moment, and not at all once it is known", func(t *testing.T) {
		bubble(t, func(t *testing.T, _ *faults, h *testHost) {
			h.create("data")
			h.die()
			for _, limit := range []time.Duration{20 * time.Millisecond, 0} {
				if took := took(func() {
					if volumes, _ := h.List(t.Context()); len(volumes) != 1 {
						t.Errorf("volumes %v", volumes)
					}
				}); took > limit {
					t.Errorf("List took %v", took)
				}
				time.Sleep(15 * time.Second)
			}
		})
	})
	t.Run("delays Get of an unknown name half a second, and not at all once it is known", func(t *testing.T) {
		bubble(t, func(t *testing.T, _ *faults, h *testHost) {
			h.create("data")
			h.die()
			for _, limit := range []time.Duration{500 * time.Millisecond, 0} {
				var err error
				if took := took(func() { _, err = h.Get(t.Context(), "of-another-driver") }); took > limit {
					t.Errorf("Get took %v", took)
				}
				wantKind(t, err, driver.NotFound, "not known on this host")
				time.Sleep(15 * time.Second)
			}
		})
	})
	t.Run("shows in Status, until it answers", func(t *testing.T) {
		bubble(t, func(t *testing.T, _ *faults, h *testHost) {
			h.create("data")
			revive := h.die()
			time.Sleep(15 * time.Second)
			if h.status("data")["trouble"] == nil {
				t.Error("no trouble")
			}
			revive()
			synctest.Wait()
			h.mount("data", "1")
			if trouble := h.status("data")["trouble"]; trouble != nil {
				t.Errorf("trouble %v", trouble)
			}
		})
	})
	t.Run("delays no other file system", func(t *testing.T) {
		bubble(t, func(t *testing.T, _ *faults, h *testHost) {
			h.create("data")
			h.create("other", "filesystem=dir:"+t.TempDir())
			h.die()
			h.behind(func() { _ = mountOf(context.Background(), h, "data", "1") })
			synctest.Wait()
			if took := took(func() { h.mount("other", "1") }); took != 0 {
				t.Errorf("it took %v", took)
			}
		})
	})
	t.Run("that is being mounted delays no other", func(t *testing.T) {
		bubble(t, func(t *testing.T, k *faults, h *testHost) {
			elsewhere := t.TempDir()
			h.create("data")
			h.create("other", "filesystem=dir:"+elsewhere)
			h.stop()
			k.hang(t, "open", elsewhere)
			h.start()
			h.behind(func() { _ = mountOf(context.Background(), h, "other", "1") })
			synctest.Wait()
			if took := took(func() {
				h.mount("data", "1")
				h.status("other")
				h.List(t.Context())
				h.unmount("data", "1")
			}); took != 0 {
				t.Errorf("it took %v", took)
			}
		})
	})
}

func TestMountUnderWayIsTheSameForAll(t *testing.T) {
	bubble(t, func(t *testing.T, k *faults, h *testHost) {
		h.create("data")
		h.stop()
		before := len(k.mounts())
		release := k.hang(t, "open", h.options.FileSystem.Dir)
		h.start()
		for i := range 3 {
			wantKind(t, mountOf(t.Context(), h, "data", fmt.Sprint(i)), driver.Unavailable, "still being tried")
		}
		release()
		h.mount("data", "1")
		if begun := len(k.mounts()) - before; begun != 1 {
			t.Errorf("%d mounts were begun", begun)
		}
		h.wantCounts("data", map[string]int{"1": 1})
	})
}

func TestServerThatDiesAtTheMountIsLeftBehind(t *testing.T) {
	bubble(t, func(t *testing.T, k *faults, h *testHost) {
		elsewhere := t.TempDir()
		release := k.hang(t, "server", elsewhere)
		var err error
		if took := took(func() { err = h.Create(t.Context(), "other", opts("filesystem=dir:"+elsewhere)) }); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
		wantKind(t, err, driver.Unavailable, "does not answer")
		release()
		synctest.Wait()
		h.create("other", "filesystem=dir:"+elsewhere)
	})
}

func TestQuestion(t *testing.T) {
	t.Run("left behind knows that it is, and its late result is undone", func(t *testing.T) {
		bubble(t, func(t *testing.T, _ *faults, h *testHost) {
			answer, undone := make(chan struct{}), make(chan struct{})
			var seen error
			err := h.AskHome(t.Context(), func(ctx context.Context) error {
				<-answer
				seen = ctx.Err()
				return nil
			}, func() { close(undone) })
			if err == nil {
				t.Fatal("it was answered")
			}
			close(answer)
			select {
			case <-undone:
			case <-time.After(deadFor):
				t.Fatal("not undone")
			}
			if seen == nil {
				t.Error("its context goes on")
			}
		})
	})
	t.Run("left behind tells its end", func(t *testing.T) {
		bubble(t, func(t *testing.T, _ *faults, h *testHost) {
			answer := make(chan struct{})
			err := h.AskHome(t.Context(), func(context.Context) error {
				<-answer
				return nil
			}, nil)
			if synctest.Wait(); !driver.GoesOn(err) {
				t.Error("it has ended without its answer")
			}
			close(answer)
			if synctest.Wait(); driver.GoesOn(err) {
				t.Error("it has not ended with its answer")
			}
		})
	})
	t.Run("with a defect costs one call", func(t *testing.T) {
		bubble(t, func(t *testing.T, _ *faults, h *testHost) {
			err := h.AskHome(t.Context(), func(context.Context) error { panic("defect") }, nil)
			if err == nil {
				t.Error("no error")
			}
			h.create("data")
		})
	})
	t.Run("waits while as many as may be are under way", func(t *testing.T) {
		bubble(t, func(t *testing.T, _ *faults, h *testHost) {
			revive := h.die()
			var begun atomic.Bool
			err := h.AskHome(t.Context(), func(context.Context) error {
				begun.Store(true)
				return nil
			}, nil)
			if err == nil || begun.Load() {
				t.Errorf("it was asked: %v", err)
			}
			revive()
			synctest.Wait()
			h.create("data")
		})
	})
}

func TestVolumesTurn(t *testing.T) {
	t.Run("is waited for no longer than the context", func(t *testing.T) {
		bubble(t, func(t *testing.T, _ *faults, h *testHost) {
			h.create("data")
			h.die()
			h.behind(func() { _ = mountOf(context.Background(), h, "data", "first") })
			synctest.Wait()
			ctx, giveUp := context.WithTimeout(t.Context(), time.Second)
			defer giveUp()
			var err error
			if took := took(func() { err = mountOf(ctx, h, "data", "second") }); took != time.Second {
				t.Errorf("it took %v", took)
			}
			wantKind(t, err, driver.Unavailable, "another call is still at work on this volume")
		})
	})
	t.Run("is not waited for by Get and Unmount", func(t *testing.T) {
		bubble(t, func(t *testing.T, _ *faults, h *testHost) {
			h.create("data")
			h.mount("data", "old")
			h.die()
			h.behind(func() { _ = mountOf(context.Background(), h, "data", "new") })
			synctest.Wait()
			if took := took(func() {
				h.unmount("data", "old")
				h.wantCounts("data", map[string]int{})
			}); took != 0 {
				t.Errorf("it took %v", took)
			}
		})
	})
	t.Run("of one volume is not another's", func(t *testing.T) {
		bubble(t, func(t *testing.T, _ *faults, h *testHost) {
			h.create("data")
			h.create("other")
			delivering, delivered := make(chan struct{}), make(chan struct{})
			h.behind(func() {
				_ = h.Mount(context.Background(), "data", "1", func(string) error {
					close(delivering)
					select {
					case <-delivered:
					case <-time.After(deadFor):
					}
					return nil
				})
			})
			<-delivering
			if took := took(func() { h.mount("other", "1") }); took != 0 {
				t.Errorf("it took %v", took)
			}
			close(delivered)
		})
	})
}

func TestUnmountOfADeadServerIsLeftBehind(t *testing.T) {
	bubble(t, func(t *testing.T, k *faults, h *testHost) {
		h.create("data")
		h.mount("data", "leaked")
		k.hang(t, "detach", h.point("data"))
		if took := took(func() { h.remove("data") }); took > 5*time.Second {
			t.Errorf("Remove took %v", took)
		}
	})
}

// The record tells whether there is a lease to take from a host that is paused.
func TestRemoveDoesNotGoOnWithoutTheRecordForTheLease(t *testing.T) {
	bubble(t, func(t *testing.T, k *faults, h *testHost) {
		h.create("data")
		h.mount("data", "leaked")
		k.hang(t, "detach", h.point("data")) // the call is past what it asks first
		failed := make(chan error, 1)
		h.behind(func() { failed <- h.Remove(context.Background(), "data") })
		synctest.Wait()
		revive := h.die()
		time.Sleep(15 * time.Second) // longer than one question may take
		revive()
		wantKind(t, <-failed, driver.Unavailable, "does not answer")
		h.remove("data")
	})
}

func TestGivenUpCallsChangeNothing(t *testing.T) {
	t.Run("Mount does not count", func(t *testing.T) {
		bubble(t, func(t *testing.T, k *faults, h *testHost) {
			h.create("data")
			revive := h.die()
			ctx, giveUp := context.WithTimeout(t.Context(), time.Second)
			defer giveUp()
			if err := mountOf(ctx, h, "data", "1"); err == nil {
				t.Fatal("mounted")
			}
			revive()
			time.Sleep(time.Minute)
			h.wantCounts("data", nil)
			if k.isMounted(h.point("data")) {
				t.Error("it is mounted")
			}
		})
	})
	// What a call asks for first may be answered although nobody waits any more: of a
	// number of tries some get further than others.
	over, giveUp := context.WithCancel(t.Context())
	giveUp()
	t.Run("Remove takes nothing", func(t *testing.T) {
		shared := t.TempDir()
		h := newHost(t, shared)
		h.create("data")
		for range 200 {
			if err := h.Remove(over, "data"); err == nil {
				t.Fatal("removed")
			}
		}
		h.AwaitStragglers(2 * time.Second)
		if !exists(t, filepath.Join(shared, "data")) {
			t.Error("the data has left")
		}
		h.mount("data", "1")
	})
	t.Run("Create and Mount leave a directory that is half made as it is", func(t *testing.T) {
		shared := t.TempDir()
		h := newHost(t, shared)
		h.create("data", "mode=0700")
		record := filepath.Join(shared, ".docker-volume-efs/volumes/data.json")
		halfMade(t, record, filepath.Join(shared, "data"))
		for range 100 {
			if err := h.FinishCreating(over, "data"); err == nil {
				t.Fatal("finished")
			}
		}
		h.AwaitStragglers(2 * time.Second)
		if info, err := os.Stat(filepath.Join(shared, "data")); err == nil && info.Mode().Perm() == 0o700 {
			t.Error("its mode was set")
		}
		if text, err := os.ReadFile(record); err != nil || !strings.Contains(string(text), `"creating"`) {
			t.Errorf("record %s, %v", text, err)
		}
	})
	t.Run("EmptyTrash deletes nothing", func(t *testing.T) {
		shared := t.TempDir()
		h := newHost(t, shared)
		h.create("data")
		h.remove("data")
		for range 100 {
			if n, err := h.EmptyTrash(over, nil, 0); err == nil || n > 0 {
				t.Fatalf("%d deleted, %v", n, err)
			}
		}
		h.AwaitStragglers(2 * time.Second)
		if len(trash(t, shared)) != 1 {
			t.Error("the data is not in the trash any more")
		}
	})
	t.Run("Restore leaves what it brought back where it is", func(t *testing.T) {
		shared := t.TempDir()
		h := newHost(t, shared)
		h.create("data")
		beginRemoval(t, shared)
		for range 100 {
			if err := h.TakeBack(over, halfRemoved, "data"); err == nil {
				t.Fatal("taken back")
			}
		}
		h.AwaitStragglers(2 * time.Second)
		if !exists(t, filepath.Join(shared, "data")) {
			t.Error("the data has left")
		}
	})
}
