package mount_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// mountAt mounts a file system that nothing keeps busy, until the test's end at the latest.
func mountAt(t *testing.T, target string) tree.Identity {
	t.Helper()
	if err := syscall.Mount("test", target, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := mount.Detach(target); err != nil {
			t.Error(err)
		}
	})
	return identityOf(t, target)
}

func identityOf(t *testing.T, path string) tree.Identity {
	t.Helper()
	id, err := tree.IdentityOf(path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// failing is a call of KeepFailing, on a clock that a bubble has.
type failing struct {
	began time.Time
	at    []time.Duration // when the kernel was called
	ended chan struct{}
}

// keepFailing begins one. What waits for a server is failed by none of the tests' mounts, and older kernels let nobody
// force who is not root of the host: the kernel is asked the rest, which is whether the mount is busy.
func keepFailing(ctx context.Context, t *testing.T, target string, id tree.Identity) *failing {
	f := &failing{began: time.Now(), ended: make(chan struct{})}
	go func() {
		defer close(f.ended)
		mount.KeepFailingBy(ctx, target, id, func(at string, flags int) error {
			f.at = append(f.at, time.Since(f.began))
			if at != target || flags != unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW {
				t.Errorf("umount of %s with flags %#x", at, flags)
			}
			return unix.Unmount(at, flags&^unix.MNT_FORCE)
		})
	}()
	return f
}

// wantEnd checks that it has ended, after calls at these seconds.
func (f *failing) wantEnd(t *testing.T, seconds ...time.Duration) {
	t.Helper()
	synctest.Wait()
	select {
	case <-f.ended:
	default:
		t.Fatal("it goes on")
	}
	var want []time.Duration
	for _, n := range seconds {
		want = append(want, n*time.Second)
	}
	if !slices.Equal(f.at, want) {
		t.Errorf("calls after %v, want %v", f.at, want)
	}
}

func TestMountThatKeepsFailing(t *testing.T) {
	const untilThird = 1500 * time.Millisecond // calls come at 0 s, 1 s, 2 s
	t.Run("is failed each second until the context ends, and stays", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			target := t.TempDir()
			id := mountAt(t, target)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			f := keepFailing(ctx, t, target, id)
			time.Sleep(3*time.Second + untilThird)
			cancel()
			f.wantEnd(t, 0, 1, 2, 3, 4)
			if identityOf(t, target) != id {
				t.Error("it was unmounted")
			}
			if err := unix.Unmount(target, 0); err != nil {
				t.Errorf("it is still kept busy: %v", err)
			}
		})
	})
	for _, row := range []struct {
		name   string
		change func(t *testing.T, target string) (after tree.Identity)
	}{
		{"is left when it is detached", func(t *testing.T, target string) tree.Identity {
			if mounted, err := mount.Detach(target); !mounted || err != nil {
				t.Fatal(mounted, err)
			}
			return identityOf(t, target)
		}},
		{"is left when another is mounted there", func(t *testing.T, target string) tree.Identity { return mountAt(t, target) }},
		{"is left when another has taken its place", func(t *testing.T, target string) tree.Identity {
			if mounted, err := mount.Detach(target); !mounted || err != nil {
				t.Fatal(mounted, err)
			}
			return mountAt(t, target)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := t.TempDir()
				f := keepFailing(t.Context(), t, target, mountAt(t, target))
				time.Sleep(untilThird)
				after := row.change(t, target)
				time.Sleep(time.Second)
				f.wantEnd(t, 0, 1)
				if identityOf(t, target) != after {
					t.Error("what is there now was unmounted")
				}
			})
		})
	}
	t.Run("is left when its directory is gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "target")
			if err := os.Mkdir(target, 0o700); err != nil {
				t.Fatal(err)
			}
			f := keepFailing(t.Context(), t, target, mountAt(t, target))
			time.Sleep(untilThird)
			if _, err := mount.Detach(target); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(target); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			f.wantEnd(t, 0, 1)
		})
	})
}

func TestNothingElseIsFailed(t *testing.T) {
	for _, row := range []struct {
		name  string
		made  func(t *testing.T) (target string, id tree.Identity)
		calls []time.Duration
	}{
		{"than what was meant", func(t *testing.T) (string, tree.Identity) {
			target := t.TempDir()
			before := identityOf(t, target)
			mountAt(t, target)
			return target, before
		}, nil},
		{"through a link", func(t *testing.T) (string, tree.Identity) {
			target, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
			return link, mountAt(t, target)
		}, nil},
		{"where nothing is", func(t *testing.T) (string, tree.Identity) {
			return filepath.Join(t.TempDir(), "none"), tree.Identity{}
		}, nil},
		{"where nothing is mounted, as the kernel tells", func(t *testing.T) (string, tree.Identity) {
			target := t.TempDir()
			return target, identityOf(t, target)
		}, []time.Duration{0}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target, id := row.made(t)
				keepFailing(t.Context(), t, target, id).wantEnd(t, row.calls...)
			})
		})
	}
}
