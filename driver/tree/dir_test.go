package tree_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

func TestMake(t *testing.T) {
	for _, row := range []struct {
		name string
		p    string
		mode uint32
		made bool
		want map[string]fs.FileMode // path and mode afterwards
	}{
		{"one directory", "new", 0o750, true, map[string]fs.FileMode{"new": 0o750}},
		{"several directories, all with the mode", "x/y/z", 0o711, true, map[string]fs.FileMode{"x": 0o711, "x/y": 0o711, "x/y/z": 0o711}},
		{"beneath one that is there, which is left alone", "old/new", 0o777, true, map[string]fs.FileMode{"old": 0o700, "old/new": 0o777}},
		{"one that is there is left alone", "old", 0o777, false, map[string]fs.FileMode{"old": 0o700}},
		{"nothing is made for the directory itself", "/", 0o777, false, map[string]fs.FileMode{"old": 0o700}},
		{"a mode with set-group-id and sticky", "new", 0o3775, true, map[string]fs.FileMode{"new": 0o775 | fs.ModeSetgid | fs.ModeSticky}},
		{"a mode that only its owner may use", "new", 0o700, true, map[string]fs.FileMode{"new": 0o700}},
		{"a mode that the umask would cut", "new", 0o777, true, map[string]fs.FileMode{"new": 0o777}},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir, path := fresh(t)
			must(t, os.Mkdir(filepath.Join(path, "old"), 0o700))
			defer syscall.Umask(syscall.Umask(0o077))
			got, made, err := dir.Make(row.p, row.mode)
			must(t, err)
			defer got.Close()
			if made != row.made {
				t.Errorf("made is %v, want %v", made, row.made)
			}
			for p, want := range row.want {
				info, err := os.Stat(filepath.Join(path, p))
				must(t, err)
				if mode := info.Mode() &^ fs.ModeDir; mode != want {
					t.Errorf("%s has mode %v, want %v", p, mode, want)
				}
			}
			id, err := got.Identity()
			if err != nil || id != identity(t, filepath.Join(path, row.p)) {
				t.Errorf("it opened %v, %v", id, err)
			}
			again, made, err := dir.Make(row.p, 0o700)
			must(t, err)
			defer again.Close()
			if made {
				t.Error("it was made twice")
			}
		})
	}
}

func TestMakeByManyAtOnceMakesOneDirectory(t *testing.T) {
	dir, path := fresh(t)
	var mu sync.Mutex
	var wins int
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			got, made, err := dir.Make("a/b", 0o755)
			if err != nil {
				t.Error(err)
				return
			}
			defer got.Close()
			if id, err := got.Identity(); err != nil || id != identity(t, filepath.Join(path, "a/b")) {
				t.Errorf("it opened %v, %v", id, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if made {
				wins++
			}
		})
	}
	callers.Wait()
	if wins != 1 {
		t.Fatalf("%d made it", wins)
	}
}

func TestSetModeAndOwner(t *testing.T) {
	dir, path := fresh(t, "a")
	// What Open returns only names the directory (O_PATH).
	a, err := dir.Open("a")
	must(t, err)
	defer a.Close()
	must(t, a.SetMode(0o1770))
	must(t, a.SetOwner(uint32(os.Getuid()), uint32(os.Getgid())))
	owner, err := a.Owner()
	if want := (tree.Owner{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Mode: 0o1770}); err != nil || owner != want {
		t.Fatalf("owner %+v, %v; want %+v", owner, err, want)
	}
	if info, err := os.Stat(filepath.Join(path, "a")); err != nil || info.Mode().Perm() != 0o770 {
		t.Fatalf("%v, %v", info, err)
	}
}

func TestFromFDTakesTheDescriptorOver(t *testing.T) {
	_, path := fresh(t, "a")
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	dir := tree.FromFD(fd, "fs")
	if dir.FD() != fd {
		t.Errorf("descriptor %d, want %d", dir.FD(), fd)
	}
	_, err = dir.Open("none")
	checkError(t, err, fs.ErrNotExist, "fs/none")
	must(t, dir.Close())
	if err := unix.Close(fd); !errors.Is(err, syscall.EBADF) {
		t.Errorf("the descriptor is still open: %v", err)
	}
}

func TestRefreshStampChangesWithTheNames(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(t *testing.T, dir *tree.Dir)
		same   bool
	}{
		{"a file added", func(t *testing.T, dir *tree.Dir) { must(t, dir.WriteNew("new", nil, 0o600)) }, false},
		{"a file removed", func(t *testing.T, dir *tree.Dir) { must(t, dir.Unlink("file")) }, false},
		{"a file linked", func(t *testing.T, dir *tree.Dir) { must(t, dir.Link("file", dir, "other")) }, false},
		{"a file renamed", func(t *testing.T, dir *tree.Dir) { must(t, dir.Rename("file", dir, "other")) }, false},
		{"a directory made", func(t *testing.T, dir *tree.Dir) {
			made, _, err := dir.Make("d", 0o755)
			must(t, err)
			made.Close()
		}, false},
		{"nothing but a file's content", func(t *testing.T, dir *tree.Dir) {
			_, err := dir.ReadFile("file")
			must(t, err)
		}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir, path := fresh(t)
			must(t, dir.WriteNew("file", []byte("x"), 0o600))
			long := time.Date(2020, 2, 20, 20, 20, 20, 123, time.UTC)
			must(t, os.Chtimes(path, long, long))
			before, err := dir.Refresh()
			must(t, err)
			if want := (tree.Stamp{Seconds: long.Unix(), Nanoseconds: 123}); before != want {
				t.Errorf("stamp %+v, want %+v", before, want)
			}
			row.change(t, dir)
			after, err := dir.Refresh()
			must(t, err)
			if (after == before) != row.same {
				t.Fatalf("stamp %+v, before %+v", after, before)
			}
		})
	}
}

func TestExistsFollowsNothing(t *testing.T) {
	dir, path := fresh(t, "a")
	must(t, os.Symlink("none", filepath.Join(path, "dangling")))
	for name, want := range map[string]bool{"a": true, "dangling": true, "none": false} {
		if got, err := dir.Exists(name); err != nil || got != want {
			t.Errorf("Exists(%q) = %v, %v; want %v", name, got, err, want)
		}
	}
}

func TestNames(t *testing.T) {
	dir, path := fresh(t, "a", "b/c")
	must(t, os.Symlink("none", filepath.Join(path, "link")))
	must(t, os.WriteFile(filepath.Join(path, ".hidden"), nil, 0o600))
	want := []string{".hidden", "a", "b", "link"}
	for range 2 { // a second reading begins anew
		names, err := dir.Names()
		slices.Sort(names)
		if err != nil || !slices.Equal(names, want) {
			t.Fatalf("names %q, %v; want %q", names, err, want)
		}
	}
	none, err := dir.Open("a")
	must(t, err)
	defer none.Close()
	if names, err := none.Names(); err != nil || len(names) != 0 {
		t.Fatalf("names of an empty directory: %q, %v", names, err)
	}
}
