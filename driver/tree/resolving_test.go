package tree_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

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

// TestWhatIsMovedAwayWhileItIsOpenedIsNoMount moves a file in and out of a directory
// in which it is being opened: openat2(2) then fails as it does at a mount.
func TestWhatIsMovedAwayWhileItIsOpenedIsNoMount(t *testing.T) {
	_, path := fresh(t, "in", "out")
	in, out := open(t, filepath.Join(path, "in")), open(t, filepath.Join(path, "out"))
	must(t, in.WriteNew("file", nil, 0o600))
	const rounds = 20_000
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range rounds {
			if err := errors.Join(in.Rename("file", out, "file"), out.Rename("file", in, "file")); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for {
		select {
		case <-ended:
			return
		default:
		}
		if _, err := in.ReadFile("file"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}
