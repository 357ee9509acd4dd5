package catalog_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

const entry = "20261121T120000Z-ABCDEF-data"

// volume makes a volume's directory with a file in it, and its record as a removal
// that has begun leaves it.
func volume(t *testing.T, c *catalog.Catalog, root, path string) catalog.Record {
	t.Helper()
	write(t, filepath.Join(root, path, "file"), "rows")
	r := record("data", at(path))
	inode, err := c.DirectoryOf(r)
	must(t, err)
	removing(entry, inode)(&r)
	return add(t, c, r)
}

// wantTrashed fails unless the volume is in the trash, whole, with its record.
func wantTrashed(t *testing.T, root string, r catalog.Record) {
	t.Helper()
	if exists(t, filepath.Join(root, r.Path)) {
		t.Errorf("%s is still there", r.Path)
	}
	wantNames(t, inside(root, "trash"), entry)
	wantNames(t, inside(root, "trash", entry), "data", "record.json")
	if got := read(t, inside(root, "trash", entry, "data", "file")); got != "rows" {
		t.Errorf("file %q", got)
	}
	if got := read(t, inside(root, "trash", entry, "record.json")); got != text(t, r) {
		t.Errorf("record %q", got)
	}
	wantNames(t, inside(root, "tmp"))
}

func TestMoveToTrash(t *testing.T) {
	t.Run("moves the directory, with a copy of the record, and may be repeated", func(t *testing.T) {
		for _, path := range []string{"/data", "/apps/web/data"} {
			root := t.TempDir()
			a, b := open(t, root), open(t, root)
			r := volume(t, a, root, path)
			write(t, filepath.Join(root, filepath.Dir(path), "beside", "file"), "")
			for _, host := range []*catalog.Catalog{a, b, a} {
				must(t, host.MoveToTrash(r))
				wantTrashed(t, root, r)
			}
			if !exists(t, filepath.Join(root, filepath.Dir(path), "beside", "file")) {
				t.Error("what lies beside it is gone")
			}
		}
	})
	for _, row := range []struct {
		name  string
		crash func(t *testing.T, dir string, r catalog.Record)
	}{
		{"making the entry", func(t *testing.T, dir string, _ catalog.Record) { must(t, os.Mkdir(dir, 0o700)) }},
		{"beginning to write the record", func(t *testing.T, dir string, _ catalog.Record) {
			write(t, filepath.Join(dir, "record.json"), "")
		}},
		{"writing half of the record", func(t *testing.T, dir string, r catalog.Record) {
			write(t, filepath.Join(dir, "record.json"), text(t, r)[:40])
		}},
		{"writing the record", func(t *testing.T, dir string, r catalog.Record) {
			write(t, filepath.Join(dir, "record.json"), text(t, r))
		}},
	} {
		t.Run("is finished after a crash after "+row.name, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			r := volume(t, c, root, "/data")
			row.crash(t, inside(root, "trash", entry), r)
			must(t, open(t, root).MoveToTrash(r))
			wantTrashed(t, root, r)
		})
	}
	t.Run("does not move another directory at the path", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		r := volume(t, c, root, "/data")
		must(t, os.Rename(filepath.Join(root, "data"), filepath.Join(root, "kept")))
		write(t, filepath.Join(root, "data", "file"), "of a new volume")
		wantError(t, c.MoveToTrash(r), catalog.ErrMadeAnew)
		if got := read(t, filepath.Join(root, "data", "file")); got != "of a new volume" {
			t.Errorf("file %q", got)
		}
		wantNames(t, inside(root, "trash"))
	})
	t.Run("does not move a directory that the record does not know", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		r := volume(t, c, root, "/data")
		r.Directory = 0
		wantError(t, c.MoveToTrash(r), catalog.ErrMadeAnew)
		if !exists(t, filepath.Join(root, "data", "file")) {
			t.Error("it is gone")
		}
		wantNames(t, inside(root, "trash"))
	})
	for _, dir := range []string{"trash/" + entry + "/data", "deleting/" + entry} {
		t.Run("leaves what was made after it had moved the volume to "+dir, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			r := volume(t, c, root, "/data")
			must(t, os.MkdirAll(inside(root, filepath.Dir(dir)), 0o700))
			must(t, os.Rename(filepath.Join(root, "data"), inside(root, dir)))
			write(t, filepath.Join(root, "data", "file"), "of a new volume")
			must(t, c.MoveToTrash(r))
			if got := read(t, filepath.Join(root, "data", "file")); got != "of a new volume" {
				t.Errorf("file %q", got)
			}
		})
	}
	t.Run("of what is not there does nothing", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		for _, path := range []string{"/data", "/no/parent"} {
			must(t, c.MoveToTrash(record("data", at(path), removing(entry, 0))))
			must(t, c.MoveToTrash(record("data", at(path), removing(entry, 7))))
		}
		wantNames(t, inside(root, "trash"))
	})
	t.Run("follows no link", func(t *testing.T) {
		root, outside := t.TempDir(), t.TempDir()
		c := open(t, root)
		write(t, filepath.Join(outside, "data", "file"), "kept")
		inode, err := openDir(t, filepath.Join(outside, "data")).Identity()
		must(t, err)
		must(t, os.Symlink(filepath.Join(outside, "data"), filepath.Join(root, "data")))
		must(t, os.Symlink(outside, filepath.Join(root, "apps")))
		for _, path := range []string{"/data", "/apps/data"} {
			r := record("data", at(path), removing(entry, inode.Inode))
			wantError(t, c.MoveToTrash(r), tree.ErrSymlink)
			_, err := c.DirectoryOf(r)
			wantError(t, err, tree.ErrSymlink)
		}
		if !exists(t, filepath.Join(outside, "data", "file")) {
			t.Error("it is gone")
		}
		wantNames(t, inside(root, "trash"))
	})
	t.Run("moves no file, and nothing on which another file system lies", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		write(t, filepath.Join(root, "data"), "a file")
		wantError(t, c.MoveToTrash(record("data", removing(entry, 1))), syscall.ENOTDIR)
		mountAt(t, filepath.Join(root, "mounted"))
		wantError(t, c.MoveToTrash(record("mounted", removing(entry, 1))), tree.ErrCrosses)
		if !exists(t, filepath.Join(root, "data")) || !exists(t, filepath.Join(root, "mounted", "file")) {
			t.Error("something is gone")
		}
	})
	t.Run("does not mix with data that an entry holds", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		r := volume(t, c, root, "/data")
		write(t, inside(root, "trash", entry, "data", "older"), "kept")
		wantError(t, c.MoveToTrash(r), syscall.ENOTEMPTY)
		if read(t, filepath.Join(root, "data", "file")) != "rows" || read(t, inside(root, "trash", entry, "data", "older")) != "kept" {
			t.Error("data was changed")
		}
	})
}

func TestUndoWrongMove(t *testing.T) {
	setup := func(t *testing.T) (entry, parent *tree.Dir, entryPath, parentPath string) {
		t.Helper()
		entryPath, parentPath = t.TempDir(), t.TempDir()
		return openDir(t, entryPath), openDir(t, parentPath), entryPath, parentPath
	}
	t.Run("puts a directory back that came between", func(t *testing.T) {
		entry, parent, entryPath, parentPath := setup(t)
		write(t, filepath.Join(entryPath, "data", "file"), "of a new volume")
		wrong, err := catalog.UndoWrongMove(entry, parent, "volume", 1)
		must(t, err)
		if id, err := openDir(t, filepath.Join(parentPath, "volume")).Identity(); err != nil || id.Inode != wrong {
			t.Errorf("inode %d, %v, is said to be %d", id.Inode, err, wrong)
		}
		if got := read(t, filepath.Join(parentPath, "volume", "file")); got != "of a new volume" || exists(t, filepath.Join(entryPath, "data")) {
			t.Errorf("file %q", got)
		}
	})
	t.Run("leaves the right one", func(t *testing.T) {
		entry, parent, entryPath, parentPath := setup(t)
		write(t, filepath.Join(entryPath, "data", "file"), "")
		id, err := openDir(t, filepath.Join(entryPath, "data")).Identity()
		must(t, err)
		if wrong, err := catalog.UndoWrongMove(entry, parent, "volume", id.Inode); err != nil || wrong != 0 {
			t.Errorf("moved %d back, %v", wrong, err)
		}
		wantNames(t, entryPath, "data")
		wantNames(t, parentPath)
	})
	t.Run("has nothing to do where nothing moved", func(t *testing.T) {
		entry, parent, _, _ := setup(t)
		if wrong, err := catalog.UndoWrongMove(entry, parent, "volume", 1); err != nil || wrong != 0 {
			t.Errorf("moved %d back, %v", wrong, err)
		}
	})
	t.Run("replaces nothing", func(t *testing.T) {
		entry, parent, entryPath, parentPath := setup(t)
		write(t, filepath.Join(entryPath, "data", "file"), "one")
		write(t, filepath.Join(parentPath, "volume", "file"), "another")
		_, err := catalog.UndoWrongMove(entry, parent, "volume", 1)
		wantError(t, err, syscall.ENOTEMPTY)
		if read(t, filepath.Join(entryPath, "data", "file")) != "one" || read(t, filepath.Join(parentPath, "volume", "file")) != "another" {
			t.Error("something was changed")
		}
	})
}

// mountAt mounts a file system with one file in it, which stays until the test ends.
func mountAt(t *testing.T, path string) (unmount func()) {
	t.Helper()
	must(t, os.MkdirAll(path, 0o700))
	must(t, syscall.Mount("other", path, "tmpfs", 0, "size=64k"))
	unmount = func() { _ = syscall.Unmount(path, syscall.MNT_DETACH) }
	t.Cleanup(unmount)
	write(t, filepath.Join(path, "file"), "of another file system")
	return unmount
}

func always() error { return nil }

func TestCondemn(t *testing.T) {
	t.Run("and delete may be repeated, also by another host", func(t *testing.T) {
		root := t.TempDir()
		a, b := open(t, root), open(t, root)
		r := volume(t, a, root, "/data")
		must(t, a.MoveToTrash(r))
		for _, host := range []*catalog.Catalog{a, b, a} {
			must(t, host.Condemn(entry))
			wantNames(t, inside(root, "trash"))
			wantNames(t, inside(root, "deleting"), entry)
		}
		must(t, b.MoveToTrash(r))
		wantNames(t, inside(root, "trash"))
		for range 2 {
			must(t, b.DeleteCondemned(always))
			wantNames(t, inside(root, "deleting"))
			must(t, b.Condemn(entry))
		}
	})
	t.Run("of what was never there does nothing", func(t *testing.T) {
		root := t.TempDir()
		must(t, open(t, root).Condemn(entry))
		wantNames(t, inside(root, "deleting"))
	})
	t.Run("drops the empty entry of a repetition", func(t *testing.T) {
		for _, left := range []string{"record.json", ""} {
			root := t.TempDir()
			c := open(t, root)
			write(t, inside(root, "deleting", entry, "data", "file"), "condemned")
			must(t, os.Mkdir(inside(root, "trash", entry), 0o700))
			if left != "" {
				write(t, inside(root, "trash", entry, left), "{}")
			}
			must(t, c.Condemn(entry))
			wantNames(t, inside(root, "trash"))
			wantNames(t, inside(root, "deleting", entry, "data"), "file")
		}
	})
	t.Run("goes on where the deletion was nearly done", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		must(t, os.Mkdir(inside(root, "deleting", entry), 0o700))
		write(t, inside(root, "trash", entry, "record.json"), "{}")
		must(t, c.Condemn(entry))
		must(t, c.DeleteCondemned(always))
		wantNames(t, inside(root, "deleting"))
		wantNames(t, inside(root, "trash"))
	})
	t.Run("loses no data of a second entry of the name", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		write(t, inside(root, "deleting", entry, "data", "file"), "condemned")
		write(t, inside(root, "trash", entry, "data", "file"), "kept")
		wantError(t, c.Condemn(entry), syscall.ENOTEMPTY)
		if got := read(t, inside(root, "trash", entry, "data", "file")); got != "kept" {
			t.Errorf("file %q", got)
		}
	})
	t.Run("takes one entry and not the trash", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		write(t, inside(root, "trash", entry, "data", "file"), "kept")
		for _, name := range []string{"", ".", "..", "../volumes", "a/b"} {
			if err := c.Condemn(name); err == nil {
				t.Errorf("condemned %q", name)
			}
		}
		if !exists(t, inside(root, "trash", entry, "data", "file")) {
			t.Error("it is gone")
		}
	})
}

func TestCondemnOlder(t *testing.T) {
	for _, row := range []struct {
		name string
		age  time.Duration
		want bool
	}{
		{"leaves what is younger", 29 * 24 * time.Hour, false},
		{"leaves what comes from a clock ahead", -24 * time.Hour, false},
		{"takes what is older", 31 * 24 * time.Hour, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			dir, came := inside(root, "trash", entry), time.Now().Add(-row.age)
			must(t, os.MkdirAll(filepath.Join(dir, "data"), 0o700))
			must(t, os.Chtimes(dir, came, came))
			var condemned bool
			synctest.Test(t, func(t *testing.T) { // where this host's clock says 2000
				var err error
				condemned, err = c.CondemnOlder(entry, 30*24*time.Hour)
				must(t, err)
			})
			if condemned != row.want || exists(t, dir) == row.want {
				t.Errorf("condemned: %v", condemned)
			}
		})
	}
	t.Run("of what is not there does nothing", func(t *testing.T) {
		if condemned, err := open(t, t.TempDir()).CondemnOlder(entry, time.Hour); condemned || err != nil {
			t.Error(condemned, err)
		}
	})
}

func TestDeleteCondemned(t *testing.T) {
	t.Run("deletes all there is, and follows no link", func(t *testing.T) {
		root, outside := t.TempDir(), t.TempDir()
		c := open(t, root)
		write(t, filepath.Join(outside, "file"), "kept")
		deleting := inside(root, "deleting")
		write(t, filepath.Join(deleting, "one", "data", "file"), "")
		write(t, filepath.Join(deleting, "two", "data", "a", "b", "file"), "")
		write(t, filepath.Join(deleting, ".hidden file"), "")
		must(t, os.Symlink(outside, filepath.Join(deleting, "link")))
		must(t, os.Symlink(outside, filepath.Join(deleting, "one", "data", "link")))
		must(t, os.Symlink("..", filepath.Join(deleting, "one", "data", "up")))
		must(t, syscall.Mkfifo(filepath.Join(deleting, "two", "fifo"), 0o600))
		must(t, os.Mkdir(filepath.Join(deleting, "closed"), 0))
		must(t, c.DeleteCondemned(always))
		wantNames(t, deleting)
		if read(t, filepath.Join(outside, "file")) != "kept" {
			t.Error("a link was followed")
		}
	})
	t.Run("leaves volumes and trash alone", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		add(t, c, record("data"))
		write(t, filepath.Join(root, "data", "file"), "")
		write(t, inside(root, "trash", entry, "data", "file"), "")
		before := listing(t, root)
		must(t, c.DeleteCondemned(always))
		if after := listing(t, root); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
	})
	t.Run("deletes a tree of 200 levels", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		at := inside(root, "deleting", entry)
		for level := range 200 {
			at = filepath.Join(at, "deep")
			if level%20 == 0 {
				write(t, filepath.Join(at, "file"), "")
			}
		}
		must(t, os.MkdirAll(at, 0o700))
		must(t, c.DeleteCondemned(always))
		wantNames(t, inside(root, "deleting"))
	})
	t.Run("is not kept from the others by one that cannot be deleted", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		deleting := inside(root, "deleting")
		for i := range 10 {
			write(t, filepath.Join(deleting, fmt.Sprint("before", i), "data", "file"), "")
		}
		mounted := filepath.Join(deleting, "stays", "mounted")
		unmount := mountAt(t, mounted)
		for i := range 10 {
			write(t, filepath.Join(deleting, fmt.Sprint("after", i), "data", "file"), "")
		}
		for range 2 {
			err := c.DeleteCondemned(always)
			if err == nil || !strings.Contains(err.Error(), "mounted") {
				t.Fatalf("error %v", err)
			}
			wantNames(t, deleting, "stays")
			if read(t, filepath.Join(mounted, "file")) != "of another file system" {
				t.Error("deleted too much")
			}
		}
		unmount()
		must(t, c.DeleteCondemned(always))
		wantNames(t, deleting)
	})
	t.Run("stops when told to, and goes on later", func(t *testing.T) {
		const entries = 3
		enough := errors.New("enough")
		for stopAt := range 12 {
			root := t.TempDir()
			c := open(t, root)
			for i := range entries {
				write(t, inside(root, "deleting", fmt.Sprint("entry", i), "data", "file"), "")
			}
			asked := 0
			err := c.DeleteCondemned(func() error {
				if asked++; asked > stopAt {
					return enough
				}
				return nil
			})
			wantError(t, err, enough)
			left, err := filepath.Glob(inside(root, "deleting", "*", "data*", "file"))
			must(t, err)
			// It asks before the entry, its data, its file, and after the entry.
			if want := entries - (stopAt+1)/4; len(left) != want {
				t.Errorf("%d files left after %d steps, want %d", len(left), stopAt, want)
			}
			must(t, c.DeleteCondemned(always))
			wantNames(t, inside(root, "deleting"))
		}
	})
}

// age writes a file that was last changed some time ago.
func age(t *testing.T, path string, since time.Duration) string {
	t.Helper()
	write(t, path, "")
	changed := time.Now().Add(-since)
	must(t, os.Chtimes(path, changed, changed))
	return path
}

func TestSweepsWhatCrashesLeft(t *testing.T) {
	root := t.TempDir()
	c := open(t, root)
	add(t, c, record("data"))
	tmp := inside(root, "tmp")
	age(t, filepath.Join(tmp, "a-week"), 7*24*time.Hour)
	age(t, filepath.Join(tmp, "a-day-and-more"), 25*time.Hour)
	age(t, filepath.Join(tmp, "nearly-a-day"), 23*time.Hour)
	age(t, filepath.Join(tmp, "now"), 0)
	age(t, filepath.Join(tmp, "clock-ahead"), -48*time.Hour)
	age(t, inside(root, "verdicts", "of-yesterday"), 25*time.Hour)
	age(t, inside(root, "verdicts", "of-today"), 23*time.Hour)
	// A host that died between link and unlink: the record is the same file.
	must(t, os.Link(inside(root, "volumes", "data.json"), filepath.Join(tmp, "linked")))
	must(t, os.Chtimes(filepath.Join(tmp, "linked"), time.Time{}, time.Now().Add(-48*time.Hour)))
	must(t, c.Tidy(always))
	wantNames(t, tmp, "clock-ahead", "nearly-a-day", "now")
	wantNames(t, inside(root, "verdicts"), "of-today")
	wantRecord(t, c, record("data"))
}

// In a bubble a host's clock is decades from the file system's, which says how old a file is.
func TestSweepsByTheClockOfTheFileSystem(t *testing.T) {
	for name, at := range map[string]time.Duration{"behind": 0, "ahead": 80 * 365 * 24 * time.Hour} {
		t.Run("on a host whose clock is years "+name, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			age(t, inside(root, "tmp", "old"), 25*time.Hour)
			age(t, inside(root, "tmp", "new"), time.Hour)
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(at)
				must(t, c.Tidy(always))
			})
			wantNames(t, inside(root, "tmp"), "new")
		})
	}
}
