package tree_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/driver/mount/mounttest"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// No test may give a call that changes anything a name or a link that leads out of
// the test's own directories: a defect would then be done to the machine.
func TestMain(m *testing.M) { mounttest.Main(m) }

// patience is far beyond what any call here takes; one that blocks is ended by it.
const patience = 20 * time.Second

func open(t *testing.T, path string) *tree.Dir {
	t.Helper()
	dir, err := tree.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	return dir
}

// fresh opens a new directory with the given ones in it.
func fresh(t *testing.T, dirs ...string) (dir *tree.Dir, path string) {
	t.Helper()
	path = t.TempDir()
	for _, sub := range dirs {
		must(t, os.MkdirAll(filepath.Join(path, sub), 0o755))
	}
	return open(t, path), path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// checkError fails unless err is want and names the path.
func checkError(t *testing.T, err, want error, path string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
	if !strings.Contains(err.Error(), path) {
		t.Errorf("error %q does not name %s", err, path)
	}
}

// identity is what a path on the host is.
func identity(t *testing.T, path string) tree.Identity {
	t.Helper()
	id, err := tree.IdentityOf(path)
	must(t, err)
	return id
}

func TestOpenFollowsPathsBeneath(t *testing.T) {
	dir, path := fresh(t, "a/b/c", "データ/x y")
	for _, row := range []struct{ name, p, is string }{
		{"nothing is the directory itself", "", ""},
		{"a slash is the directory itself", "/", ""},
		{"one name", "a", "a"},
		{"several names", "a/b/c", "a/b/c"},
		{"slashes at the ends do not count", "/a/b/", "a/b"},
		{"slashes too many do not count", "a///b//c", "a/b/c"},
		{"Unicode and blanks", "データ/x y", "データ/x y"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := dir.Open(row.p)
			must(t, err)
			defer got.Close()
			id, err := got.Identity()
			must(t, err)
			if want := identity(t, filepath.Join(path, row.is)); id != want {
				t.Fatalf("opened %v, want %v", id, want)
			}
		})
	}
}

// opener is Open or Make: both must keep to the same rules.
type opener struct {
	name string
	call func(dir *tree.Dir, p string) (*tree.Dir, error)
}

func openers() []opener {
	return []opener{
		{"Open", func(dir *tree.Dir, p string) (*tree.Dir, error) { return dir.Open(p) }},
		{"Make", func(dir *tree.Dir, p string) (*tree.Dir, error) {
			made, _, err := dir.Make(p, 0o755)
			return made, err
		}},
	}
}

func TestWhatLiesInTheWayIsAnError(t *testing.T) {
	for _, row := range []struct {
		name string
		p    string
		want error
		at   string // what the error names
	}{
		{"two dots", "..", syscall.EINVAL, ".."},
		{"two dots first", "../a", syscall.EINVAL, "../a"},
		{"two dots within", "a/../b", syscall.EINVAL, "a/../b"},
		{"two dots last", "a/..", syscall.EINVAL, "a/.."},
		{"two dots behind a slash", "/..", syscall.EINVAL, "/.."},
		{"a single dot", ".", syscall.EINVAL, "."},
		{"a single dot within", "a/./b", syscall.EINVAL, "a/./b"},

		{"a link to a directory beneath, alone", "in", tree.ErrSymlink, "/in"},
		{"a link to a directory outside, alone", "out", tree.ErrSymlink, "/out"},
		{"a link to what lies above outside", "top", tree.ErrSymlink, "/top"},
		{"a link that climbs", "up", tree.ErrSymlink, "/up"},
		{"a link to nothing", "void", tree.ErrSymlink, "/void"},
		{"a link to itself", "loop", tree.ErrSymlink, "/loop"},
		{"a link first", "in/b/c", tree.ErrSymlink, "/in"},
		{"a link first, to outside", "out/b", tree.ErrSymlink, "/out"},
		{"a link in the middle", "a/link/c", tree.ErrSymlink, "/a/link"},
		{"a link last", "a/b/link", tree.ErrSymlink, "/a/b/link"},
		{"a link last, with a slash behind it", "a/b/link/", tree.ErrSymlink, "/a/b/link"},
		{"a link in place of a parent that is to be made", "void/x", tree.ErrSymlink, "/void"},

		{"a file alone", "file", syscall.ENOTDIR, "/file"},
		{"a file first", "file/x", syscall.ENOTDIR, "/file"},
		{"a file last", "a/b/file", syscall.ENOTDIR, "/a/b/file"},
		{"a named pipe", "fifo", syscall.ENOTDIR, "/fifo"},
		{"a name too long", strings.Repeat("n", 256), syscall.ENAMETOOLONG, "/nnn"},
		{"NUL", "a\x00b", syscall.EINVAL, "/a"},
	} {
		for _, o := range openers() {
			t.Run(o.name+" of "+row.name, func(t *testing.T) {
				dir, path := fresh(t, "a/b/c")
				outside := t.TempDir()
				must(t, os.Mkdir(filepath.Join(outside, "b"), 0o755))
				for link, to := range map[string]string{
					"in": "a", "out": outside, "top": filepath.Dir(outside), "up": "../", "void": outside + "/void", "loop": "loop", "a/link": "b", "a/b/link": "c",
				} {
					must(t, os.Symlink(to, filepath.Join(path, link)))
				}
				for _, file := range []string{"file", "a/b/file"} {
					must(t, os.WriteFile(filepath.Join(path, file), nil, 0o600))
				}
				must(t, syscall.Mkfifo(filepath.Join(path, "fifo"), 0o600))
				before := listing(t, path) + listing(t, outside)

				got, err := o.call(dir, row.p)
				if err == nil {
					id, _ := got.Identity()
					got.Close()
					t.Fatalf("opened %v", id)
				}
				checkError(t, err, row.want, row.at)
				if after := listing(t, path) + listing(t, outside); after != before {
					t.Errorf("before:\n%s\nafter:\n%s", before, after)
				}
			})
		}
	}
}

// listing shows all that lies beneath a path.
func listing(t *testing.T, path string) string {
	t.Helper()
	var list strings.Builder
	must(t, filepath.WalkDir(path, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(path, p)
		if err != nil {
			return err
		}
		_, err = list.WriteString(info.Mode().String() + " " + relative + "\n")
		return err
	}))
	return list.String()
}

func TestMagicLinksAreErrors(t *testing.T) {
	self := open(t, "/proc/self")
	for _, o := range openers() {
		for _, p := range []string{"cwd", "root", "fd/0", "ns/mnt", "exe"} {
			t.Run(o.name+" of "+p, func(t *testing.T) {
				got, err := o.call(self, p)
				if err == nil {
					got.Close()
				}
				if !errors.Is(err, tree.ErrSymlink) {
					t.Fatalf("error %v, want %v", err, tree.ErrSymlink)
				}
			})
		}
	}
}

func TestAnotherFileSystemOnTheWayIsAnError(t *testing.T) {
	root := open(t, "/")
	for _, p := range []string{"proc", "proc/self"} {
		got, err := root.Open(p)
		if err == nil {
			got.Close()
		}
		checkError(t, err, tree.ErrCrosses, "/proc")
	}
}

func TestOpenOfWhatIsNotThereSaysSo(t *testing.T) {
	dir, path := fresh(t, "a")
	for _, p := range []string{"b", "b/c", "a/b"} {
		got, err := dir.Open(p)
		if err == nil {
			got.Close()
		}
		checkError(t, err, fs.ErrNotExist, filepath.Join(path, strings.TrimSuffix(p, "/c")))
	}
	_, err := tree.Open(path + "/none")
	checkError(t, err, fs.ErrNotExist, path+"/none")
}

func TestOpenOnTheHostFollowsLinks(t *testing.T) {
	_, path := fresh(t, "a")
	must(t, os.Symlink("a", filepath.Join(path, "link")))
	id, err := open(t, filepath.Join(path, "link")).Identity()
	if err != nil || id != identity(t, filepath.Join(path, "a")) {
		t.Fatalf("opened %v, %v", id, err)
	}
}

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

func TestIdentityIsStable(t *testing.T) {
	dir, path := fresh(t, "a", "b")
	a, err := dir.Open("a")
	must(t, err)
	defer a.Close()
	first, err := a.Identity()
	must(t, err)
	if first == identity(t, filepath.Join(path, "b")) {
		t.Error("two directories are the same")
	}
	must(t, os.Rename(filepath.Join(path, "a"), filepath.Join(path, "c")))
	must(t, os.Mkdir(filepath.Join(path, "a"), 0o755))
	second, err := a.Identity()
	must(t, err)
	if second != first || identity(t, filepath.Join(path, "c")) != first {
		t.Errorf("moved, it is %v, was %v", second, first)
	}
	if identity(t, filepath.Join(path, "a")) == first {
		t.Error("the one that took its place is the same")
	}
}

// A server may give the inode number of a deleted directory to a new one.
func TestIdentityHasTheFileSystemsOwnName(t *testing.T) {
	dir, path := fresh(t, "a")
	id, err := dir.Identity()
	must(t, err)
	if by := identity(t, path); id.Handle == "" || by != id {
		t.Errorf("%+v by descriptor, %+v by path", id, by)
	}
	if a := identity(t, filepath.Join(path, "a")); a.Handle == id.Handle {
		t.Error("two directories have one handle")
	}
}

func TestIdentityOfALinkIsItsOwn(t *testing.T) {
	_, path := fresh(t, "a")
	must(t, os.Symlink("a", filepath.Join(path, "link")))
	if identity(t, filepath.Join(path, "link")) == identity(t, filepath.Join(path, "a")) {
		t.Fatal("the link was followed")
	}
}

func TestIdentityErrorsNameThePath(t *testing.T) {
	_, path := fresh(t, "a")
	_, err := tree.IdentityOf(filepath.Join(path, "none"))
	checkError(t, err, fs.ErrNotExist, filepath.Join(path, "none"))
	closed, err := tree.Open(filepath.Join(path, "a"))
	must(t, err)
	must(t, closed.Close())
	for name, call := range map[string]func() error{
		"Identity": func() error { _, err := closed.Identity(); return err },
		"Refresh":  func() error { _, err := closed.Refresh(); return err },
		"Owner":    func() error { _, err := closed.Owner(); return err },
		"SetOwner": func() error { return closed.SetOwner(0, 0) },
		"SetMode":  func() error { return closed.SetMode(0o755) },
		"Names":    func() error { _, err := closed.Names(); return err },
		"Open":     func() error { _, err := closed.Open("x"); return err },
		"Make":     func() error { _, _, err := closed.Make("x", 0o755); return err },
		"Exists":   func() error { _, err := closed.Exists("x"); return err },
		"ReadFile": func() error { _, err := closed.ReadFile("x"); return err },
		"WriteNew": func() error { return closed.WriteNew("x", nil, 0o600) },
		"Unlink":   func() error { return closed.Unlink("x") },
	} {
		t.Run(name+" of a closed directory", func(t *testing.T) {
			checkError(t, call(), syscall.EBADF, filepath.Join(path, "a"))
		})
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

func TestReadFile(t *testing.T) {
	dir, path := fresh(t, "a")
	const limit = 1 << 20
	for name, size := range map[string]int64{"empty": 0, "small": 3, "largest": limit, "larger": limit + 1, "huge": 1 << 40} {
		must(t, os.WriteFile(filepath.Join(path, name), nil, 0o600))
		must(t, os.Truncate(filepath.Join(path, name), size))
	}
	for name, size := range map[string]int{"empty": 0, "small": 3, "largest": limit} {
		data, err := dir.ReadFile(name)
		if err != nil || len(data) != size {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}

	must(t, syscall.Mkfifo(filepath.Join(path, "fifo"), 0o600))
	must(t, os.Symlink("small", filepath.Join(path, "link")))
	must(t, os.Symlink("fifo", filepath.Join(path, "fifolink")))
	must(t, os.Symlink("a", filepath.Join(path, "dirlink")))
	must(t, os.WriteFile(filepath.Join(path, "a/file"), nil, 0o600))
	listener, err := net.Listen("unix", filepath.Join(path, "socket"))
	must(t, err)
	defer listener.Close()
	for _, row := range []struct {
		name string
		want error
	}{
		{"none", fs.ErrNotExist},
		{"larger", tree.ErrTooLarge},
		{"huge", tree.ErrTooLarge},
		{"link", tree.ErrSymlink},
		{"fifolink", tree.ErrSymlink},
		{"dirlink/file", tree.ErrSymlink},
		{"fifo", tree.ErrNotRegular},
		{"a", tree.ErrNotRegular},
		{"socket", tree.ErrNotRegular},
		{".", tree.ErrNotRegular},
		{"..", tree.ErrCrosses},
		{"a/../../x", tree.ErrCrosses},
	} {
		t.Run(row.name+" is refused, and nobody waits", func(t *testing.T) {
			ended := make(chan error, 1)
			go func() {
				_, err := dir.ReadFile(row.name)
				ended <- err
			}()
			select {
			case err := <-ended:
				checkError(t, err, row.want, filepath.Join(path, row.name))
			case <-time.After(patience):
				t.Fatal("it blocks")
			}
		})
	}
}

func TestWriteNew(t *testing.T) {
	t.Run("writes a file with its mode", func(t *testing.T) {
		dir, path := fresh(t)
		must(t, dir.WriteNew("file", []byte("rows"), 0o600))
		data, err := os.ReadFile(filepath.Join(path, "file"))
		if err != nil || string(data) != "rows" {
			t.Fatalf("%q, %v", data, err)
		}
		if info, err := os.Stat(filepath.Join(path, "file")); err != nil || info.Mode() != 0o600 {
			t.Fatalf("%v, %v", info.Mode(), err)
		}
	})
	for _, row := range []struct {
		name  string
		plant func(t *testing.T, path string)
	}{
		{"a file", func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte("old"), 0o600)) }},
		{"a link to nothing", func(t *testing.T, path string) { must(t, os.Symlink("none", path)) }},
		{"a link to a file", func(t *testing.T, path string) {
			must(t, os.WriteFile(path+".other", []byte("old"), 0o600))
			must(t, os.Symlink(filepath.Base(path)+".other", path))
		}},
		{"a directory", func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o755)) }},
		{"a named pipe", func(t *testing.T, path string) { must(t, syscall.Mkfifo(path, 0o600)) }},
	} {
		t.Run("does not take the place of "+row.name, func(t *testing.T) {
			dir, path := fresh(t)
			row.plant(t, filepath.Join(path, "file"))
			before := listing(t, path)
			checkError(t, dir.WriteNew("file", []byte("new"), 0o600), fs.ErrExist, filepath.Join(path, "file"))
			if after := listing(t, path); after != before {
				t.Fatalf("before:\n%s\nafter:\n%s", before, after)
			}
			if old, err := os.ReadFile(filepath.Join(path, "file.other")); err == nil && string(old) != "old" {
				t.Errorf("the link's file became %q", old)
			}
		})
	}
	t.Run("does not climb or follow links", func(t *testing.T) {
		dir, path := fresh(t, "a/b", "outside")
		must(t, os.Symlink("../outside", filepath.Join(path, "a/link")))
		a, err := dir.Open("a")
		must(t, err)
		defer a.Close()
		checkError(t, a.WriteNew("../x", nil, 0o600), tree.ErrCrosses, "x")
		checkError(t, a.WriteNew("link/x", nil, 0o600), tree.ErrSymlink, "link")
		if got := listing(t, filepath.Join(path, "outside")); strings.Contains(got, "x\n") {
			t.Errorf("written outside:\n%s", got)
		}
		_ = dir
	})
	t.Run("leaves nothing when the file system is full", func(t *testing.T) {
		dir, path := fresh(t)
		limitFileSize(t, 1000)
		err := dir.WriteNew("file", make([]byte, 4000), 0o600)
		checkError(t, err, syscall.EFBIG, filepath.Join(path, "file"))
		if names, err := dir.Names(); err != nil || len(names) != 0 {
			t.Fatalf("left behind: %q, %v", names, err)
		}
	})
	t.Run("by many at once is done by one", func(t *testing.T) {
		dir, _ := fresh(t)
		var mu sync.Mutex
		var wins int
		var callers sync.WaitGroup
		for range 16 {
			callers.Go(func() {
				err := dir.WriteNew("file", []byte("x"), 0o600)
				if err != nil && !errors.Is(err, fs.ErrExist) {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					wins++
				}
			})
		}
		callers.Wait()
		if wins != 1 {
			t.Fatalf("%d wrote it", wins)
		}
	})
}

// limitFileSize makes writes beyond a size fail until the test ends, as they
// do on a full file system.
func limitFileSize(t *testing.T, size uint64) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	var old syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old))
	must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: old.Max}))
	t.Cleanup(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Error(err)
		}
		signal.Reset(syscall.SIGXFSZ)
	})
}

func TestLink(t *testing.T) {
	dir, path := fresh(t, "to")
	to, err := dir.Open("to")
	must(t, err)
	defer to.Close()
	must(t, dir.WriteNew("one", []byte("1"), 0o600))
	must(t, dir.WriteNew("two", []byte("2"), 0o600))
	must(t, dir.Link("one", to, "name"))
	checkError(t, dir.Link("two", to, "name"), fs.ErrExist, filepath.Join(path, "to/name"))
	if data, err := to.ReadFile("name"); err != nil || string(data) != "1" {
		t.Fatalf("%q, %v", data, err)
	}
	checkError(t, dir.Link("none", to, "other"), fs.ErrNotExist, "other")

	t.Run("does not follow a link", func(t *testing.T) {
		must(t, os.Symlink("one", filepath.Join(path, "link")))
		must(t, dir.Link("link", to, "link"))
		if _, err := to.ReadFile("link"); !errors.Is(err, tree.ErrSymlink) {
			t.Fatalf("error %v, want %v", err, tree.ErrSymlink)
		}
	})
	t.Run("does not take the place of a link to nothing", func(t *testing.T) {
		must(t, os.Symlink("none", filepath.Join(path, "to/dangling")))
		checkError(t, dir.Link("one", to, "dangling"), fs.ErrExist, "to/dangling")
	})
}

func TestRename(t *testing.T) {
	dir, path := fresh(t, "to/empty", "to/full/x", "d/inner")
	to, err := dir.Open("to")
	must(t, err)
	defer to.Close()
	must(t, dir.WriteNew("one", []byte("1"), 0o600))
	must(t, to.WriteNew("file", []byte("old"), 0o600))
	must(t, dir.Rename("one", to, "file"))
	if data, err := to.ReadFile("file"); err != nil || string(data) != "1" {
		t.Fatalf("%q, %v", data, err)
	}
	checkError(t, dir.Rename("one", to, "file"), fs.ErrNotExist, filepath.Join(path, "one"))
	checkError(t, dir.Rename("d", to, "full"), syscall.ENOTEMPTY, filepath.Join(path, "d"))
	must(t, dir.Rename("d", to, "empty"))
	if info, err := os.Stat(filepath.Join(path, "to/empty/inner")); err != nil || !info.IsDir() {
		t.Fatalf("the directory was not moved: %v", err)
	}
	t.Run("moves a link itself", func(t *testing.T) {
		outside := t.TempDir()
		must(t, os.Symlink(outside, filepath.Join(path, "link")))
		must(t, dir.Rename("link", to, "link"))
		if got, err := os.Readlink(filepath.Join(path, "to/link")); err != nil || got != outside {
			t.Fatalf("%q, %v", got, err)
		}
		if _, err := os.Stat(outside); err != nil {
			t.Fatalf("the link's directory was moved: %v", err)
		}
	})
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

func TestUnlinkAndRemoveEmptyMayBeRepeated(t *testing.T) {
	dir, path := fresh(t, "empty", "full/x")
	must(t, dir.WriteNew("file", nil, 0o600))
	for range 2 {
		must(t, dir.Unlink("file"))
		must(t, dir.RemoveEmpty("empty"))
	}
	checkError(t, dir.RemoveEmpty("full"), syscall.ENOTEMPTY, filepath.Join(path, "full"))
	checkError(t, dir.Unlink("full"), syscall.EISDIR, filepath.Join(path, "full"))
	if names, err := dir.Names(); err != nil || !slices.Equal(names, []string{"full"}) {
		t.Fatalf("left: %q, %v", names, err)
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

// What takes a name takes one name: a path would be resolved by the kernel,
// which climbs and follows links.
func TestPathsInPlaceOfNamesAreRefused(t *testing.T) {
	for _, name := range []string{"", ".", "..", "../out", "link/file", "sub/file"} {
		for call, do := range map[string]func(d *tree.Dir) error{
			"Exists":      func(d *tree.Dir) error { _, err := d.Exists(name); return err },
			"Unlink":      func(d *tree.Dir) error { return d.Unlink(name) },
			"RemoveEmpty": func(d *tree.Dir) error { return d.RemoveEmpty(name) },
			"RemoveTree":  func(d *tree.Dir) error { return d.RemoveTree(name, always) },
			"Rename from": func(d *tree.Dir) error { return d.Rename(name, d, "new") },
			"Rename to":   func(d *tree.Dir) error { return d.Rename("file", d, name) },
			"Link from":   func(d *tree.Dir) error { return d.Link(name, d, "new") },
			"Link to":     func(d *tree.Dir) error { return d.Link("file", d, name) },
		} {
			t.Run(call+" "+name, func(t *testing.T) {
				top, path := fresh(t, "dir/sub", "outside")
				for _, file := range []string{"out", "outside/file", "dir/file", "dir/sub/file"} {
					must(t, os.WriteFile(filepath.Join(path, file), nil, 0o600))
				}
				must(t, os.Symlink("../outside", filepath.Join(path, "dir/link")))
				dir, err := top.Open("dir")
				must(t, err)
				defer dir.Close()
				before := listing(t, path)
				checkError(t, do(dir), syscall.EINVAL, name)
				if after := listing(t, path); after != before {
					t.Errorf("before:\n%s\nafter:\n%s", before, after)
				}
			})
		}
	}
}

func always() error { return nil }

func TestRemoveTree(t *testing.T) {
	t.Run("removes everything beneath, and follows no link", func(t *testing.T) {
		dir, path := fresh(t, "gone/a/b/c", "gone/empty", "kept/inner")
		outside := t.TempDir()
		must(t, os.WriteFile(filepath.Join(outside, "file"), nil, 0o600))
		for link, to := range map[string]string{
			"gone/out": outside, "gone/a/up": "../../kept", "gone/a/b/out-again": outside, "gone/dangling": "none", "gone/a/file-out": outside + "/file",
		} {
			must(t, os.Symlink(to, filepath.Join(path, link)))
		}
		must(t, os.WriteFile(filepath.Join(path, "gone/a/b/file"), nil, 0o400))
		must(t, syscall.Mkfifo(filepath.Join(path, "gone/fifo"), 0o600))
		keptBefore, outsideBefore := listing(t, filepath.Join(path, "kept")), listing(t, outside)

		must(t, dir.RemoveTree("gone", always))

		if names, err := dir.Names(); err != nil || !slices.Equal(names, []string{"kept"}) {
			t.Errorf("left: %q, %v", names, err)
		}
		if listing(t, filepath.Join(path, "kept")) != keptBefore || listing(t, outside) != outsideBefore {
			t.Error("a link was followed")
		}
	})
	t.Run("removes a link itself", func(t *testing.T) {
		dir, path := fresh(t, "kept/inner")
		must(t, os.Symlink("kept", filepath.Join(path, "link")))
		must(t, dir.RemoveTree("link", always))
		if names, err := dir.Names(); err != nil || !slices.Equal(names, []string{"kept"}) {
			t.Fatalf("left: %q, %v", names, err)
		}
		if _, err := os.Stat(filepath.Join(path, "kept/inner")); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("removes a single file", func(t *testing.T) {
		dir, _ := fresh(t)
		must(t, dir.WriteNew("file", nil, 0o600))
		must(t, dir.RemoveTree("file", always))
		if there, err := dir.Exists("file"); err != nil || there {
			t.Fatalf("still there: %v, %v", there, err)
		}
	})
	t.Run("of what is not there is no error", func(t *testing.T) {
		dir, _ := fresh(t)
		must(t, dir.RemoveTree("none", always))
	})
	t.Run("stops when it may do no more, and goes on later", func(t *testing.T) {
		dir, path := fresh(t, "gone/a/b/c", "gone/d/e/f", "gone/g")
		enough := errors.New("enough")
		for allowed, runs := 1, 0; ; allowed, runs = allowed+1, runs+1 {
			left := allowed
			err := dir.RemoveTree("gone", func() error {
				if left--; left < 0 {
					return enough
				}
				return nil
			})
			if err == nil {
				if runs < 3 {
					t.Errorf("it asked only %d times", runs)
				}
				break
			}
			if !errors.Is(err, enough) {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(path, "gone")); err != nil {
				t.Fatalf("stopped, and yet: %v", err)
			}
		}
	})
	t.Run("removes nothing when it may do nothing", func(t *testing.T) {
		dir, path := fresh(t, "kept")
		enough := errors.New("enough")
		if err := dir.RemoveTree("kept", func() error { return enough }); !errors.Is(err, enough) {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(path, "kept")); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("by two at once leaves nothing and fails for neither", func(t *testing.T) {
		dir, path := fresh(t)
		for _, p := range []string{"gone/a/b/c", "gone/d/e/f", "gone/g/h/i"} {
			must(t, os.MkdirAll(filepath.Join(path, p), 0o755))
		}
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				if err := dir.RemoveTree("gone", always); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		if names, err := dir.Names(); err != nil || len(names) != 0 {
			t.Fatalf("left: %q, %v", names, err)
		}
	})
}

func TestRemoveTreeHoldsFewDescriptorsHoweverDeepTheTree(t *testing.T) {
	dir, path := fresh(t, "top"+strings.Repeat("/d", 300))
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(fds)
	}
	before, most := open(), 0
	for names := []string{"top"}; len(names) > 0; {
		must(t, dir.RemoveTree(names[0], func() error {
			most = max(most, open()-before)
			return nil
		}))
		entries, err := os.ReadDir(path)
		must(t, err)
		names = nil
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
	}
	if most > 100 {
		t.Errorf("it held %d", most)
	}
}
