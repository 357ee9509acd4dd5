package catalog_test

import (
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

func text(t *testing.T, r catalog.Record) string {
	t.Helper()
	data, err := r.Encode()
	must(t, err)
	return string(data)
}

func TestLookupOfWhatIsNoGoodRecord(t *testing.T) {
	good := text(t, record("data"))
	with := func(old, replacement string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in %s", old, good)
		}
		return strings.Replace(good, old, replacement, 1)
	}
	path := func(path string) string { return text(t, record("data", at(path))) }
	for _, row := range []struct {
		name string
		text string
		want error
	}{
		{"an empty file", "", catalog.ErrDamaged},
		{"zeros", strings.Repeat("\x00", 300), catalog.ErrDamaged},
		{"garbage", "garbage", catalog.ErrDamaged},
		{"something else in JSON", "[]", catalog.ErrDamaged},
		{"nothing in JSON", "null", catalog.ErrDamaged},
		{"two records", good + good, catalog.ErrDamaged},
		{"another volume's record", text(t, record("other")), catalog.ErrDamaged},
		{"the record of a name with other capitals", text(t, record("DATA")), catalog.ErrDamaged},
		{"no version", with(`"version": 1,`, ""), catalog.ErrDamaged},
		{"version 0", with(`"version": 1`, `"version": 0`), catalog.ErrDamaged},
		{"a version below 0", with(`"version": 1`, `"version": -1`), catalog.ErrDamaged},
		{"a version in words", with(`"version": 1`, `"version": "1"`), catalog.ErrDamaged},
		{"a protected volume in the old format", with(`"access":`, `"tls": true, "access":`), catalog.ErrDamaged},
		{"a plain volume in the format of protected ones", with(`"version": 1`, `"version": 2`), catalog.ErrDamaged},
		{"IAM without TLS", strings.NewReplacer(`"version": 1`, `"version": 2`, `"access":`, `"iam": true, "access":`).Replace(text(t, record("data"))), catalog.ErrDamaged},
		{"the next version", with(`"version": 1`, `"version": 4`), catalog.ErrNewer},
		{"the next version, which looks different", `{"version":4,"name":7,"path":[]}`, catalog.ErrNewer},
		{"the next version alone", `{"version":4}`, catalog.ErrNewer},
		{"no state", with(`"state": "ready",`, ""), catalog.ErrDamaged},
		{"an unknown state", with(`"ready"`, `"Ready"`), catalog.ErrDamaged},
		{"no path", path(""), catalog.ErrDamaged},
		{"a path that climbs", path("/../etc"), catalog.ErrDamaged},
		{"a path that climbs within", path("/a/../../etc"), catalog.ErrDamaged},
		{"a path that is not absolute", path("data"), catalog.ErrDamaged},
		{"a path that is not clean", path("/data/"), catalog.ErrDamaged},
		{"a path with a dot", path("/./data"), catalog.ErrDamaged},
		{"a path with NUL", path("/da\x00ta"), catalog.ErrDamaged},
		{"the root as path", path("/"), catalog.ErrDamaged},
		{"the catalogue as path", path("/" + catalog.DirName), catalog.ErrDamaged},
		{"a path into the catalogue", path("/" + catalog.DirName + "/trash"), catalog.ErrDamaged},
		{"a path into a catalogue further down", path("/a/" + catalog.DirName), catalog.ErrDamaged},
		{"a pointer to no file system", text(t, record("data", func(r *catalog.Record) { r.FileSystem = "nowhere" })), catalog.ErrDamaged},
		{"a trash entry that climbs", text(t, record("data", removing("../../etc", 1))), catalog.ErrDamaged},
		{"a trash entry with dots", text(t, record("data", removing("..", 1))), catalog.ErrDamaged},
		{"an inode below 0", with(`"made": true`, `"directory": -1`), catalog.ErrDamaged},
		{"an unknown remove policy", with(`"trash"`, `"shred"`), catalog.ErrDamaged},
		{"no remove policy", with(`"remove": "trash",`, ""), catalog.ErrDamaged},
		{"a mode beyond what there is", with(`"access"`, `"mode": "4755", "access"`), catalog.ErrDamaged},
		{"an NFS option that is not allowed", with(`"via": "auto"`, `"via": "auto", "nfs": ["soft"]`), catalog.ErrDamaged},
		{"two NFS options in one", with(`"via": "auto"`, `"via": "auto", "nfs": ["hard,addr=10.0.0.1"]`), catalog.ErrDamaged},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			write(t, inside(root, "volumes", "data.json"), row.text)
			got, err := c.Lookup("data")
			wantError(t, err, row.want)
			if !reflect.DeepEqual(got, catalog.Record{}) {
				t.Errorf("record %+v", got)
			}
			if read(t, inside(root, "volumes", "data.json")) != row.text {
				t.Error("the file was changed")
			}
		})
	}
	t.Run("a record cut short anywhere", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		for cut := range len(good) - 1 { // the last byte is a line end
			write(t, inside(root, "volumes", "data.json"), good[:cut])
			_, err := c.Lookup("data")
			wantError(t, err, catalog.ErrDamaged)
		}
	})
	t.Run("a file of 2 MiB", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		write(t, inside(root, "volumes", "data.json"), good+strings.Repeat(" ", 2<<20))
		_, err := c.Lookup("data")
		wantError(t, err, catalog.ErrDamaged)
	})
	t.Run("fields that are not known are no damage", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		write(t, inside(root, "volumes", "data.json"), with(`"version": 1`, `"version": 1, "more": {"a": []}`))
		wantRecord(t, c, record("data"))
	})
}

func TestLookupOfWhatIsNoFile(t *testing.T) {
	for _, row := range []struct {
		name  string
		plant func(t *testing.T, path string)
	}{
		{"a link to a good record beside it", func(t *testing.T, path string) {
			write(t, filepath.Join(filepath.Dir(path), "target"), text(t, record("data")))
			must(t, os.Symlink("target", path))
		}},
		{"a link to a good record elsewhere", func(t *testing.T, path string) {
			target := filepath.Join(t.TempDir(), "record")
			write(t, target, text(t, record("data")))
			must(t, os.Symlink(target, path))
		}},
		{"a link to nothing", func(t *testing.T, path string) {
			must(t, os.Symlink(filepath.Join(t.TempDir(), "none"), path))
		}},
		{"a link to itself", func(t *testing.T, path string) { must(t, os.Symlink("data.json", path)) }},
		{"a directory", func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }},
		{"a named pipe", func(t *testing.T, path string) { must(t, syscall.Mkfifo(path, 0o600)) }},
		{"a socket", func(t *testing.T, path string) {
			t.Chdir(filepath.Dir(path)) // the path may be too long for an address
			var listen net.ListenConfig
			socket, err := listen.Listen(t.Context(), "unix", "data.json")
			must(t, err)
			t.Cleanup(func() { socket.Close() })
		}},
	} {
		t.Run(row.name+" is damage", func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			row.plant(t, inside(root, "volumes", "data.json"))
			_, err := c.Lookup("data")
			wantError(t, err, catalog.ErrDamaged)
		})
	}
	t.Run("nothing is not found", func(t *testing.T) { wantNone(t, open(t, t.TempDir()), "data") })
	t.Run("a name that is none is neither", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		write(t, inside(root, "record.json"), text(t, record("../record")))
		for _, name := range []string{"../record", "", "a/b", ".hidden"} {
			if got, err := c.Lookup(name); err == nil {
				t.Errorf("%q: %+v", name, got)
			}
		}
	})
}

func TestLookupAgain(t *testing.T) {
	find := func(t *testing.T, c *catalog.Catalog, before catalog.Found) catalog.Found {
		t.Helper()
		found, err := c.LookupAgain("data", before)
		must(t, err)
		return found
	}
	t.Run("does not read again what is unchanged", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		add(t, c, record("data", by("host-a")))
		before := find(t, c, catalog.Found{})
		opened := countOpens(t, inside(root, "volumes", "data.json"))
		if got := find(t, c, before); !reflect.DeepEqual(got, before) || opened() != 0 {
			t.Errorf("found %+v after %d opens, want %+v", got, opened(), before)
		}
		if find(t, c, catalog.Found{}); opened() == 0 {
			t.Error("a read does not show as an open: this test could not fail")
		}
	})
	t.Run("reads what was written in place, though nobody should", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		add(t, c, record("data", by("host-a")))
		before := find(t, c, catalog.Found{})
		path := inside(root, "volumes", "data.json")
		info, err := os.Stat(path)
		must(t, err)
		write(t, path, text(t, record("data", by("host-b"))))
		must(t, os.Chtimes(path, time.Time{}, info.ModTime()))
		if got := find(t, c, before).Record.CreatedBy; got != "host-b" {
			t.Errorf("record of %s", got)
		}
	})
	t.Run("reads what another host has replaced", func(t *testing.T) {
		root := t.TempDir()
		a, b := open(t, root), open(t, root)
		now := add(t, a, record("data"))
		found := find(t, a, catalog.Found{})
		for _, entry := range []string{"one", "two", "six"} {
			next := record("data", removing(entry, 7))
			must(t, b.Replace(now, next))
			if found = find(t, a, found); found.Record.Trash != entry {
				t.Errorf("a removal to %s, want %s", found.Record.Trash, entry)
			}
			now = next
		}
	})
	t.Run("sees that another host has dropped it and made it anew", func(t *testing.T) {
		root := t.TempDir()
		a, b := open(t, root), open(t, root)
		add(t, a, record("data", by("host-a")))
		before := find(t, a, catalog.Found{})
		must(t, b.Drop("data"))
		_, err := a.LookupAgain("data", before)
		wantError(t, err, catalog.ErrNotFound)
		add(t, b, record("data", by("host-b")))
		if got := find(t, a, before).Record.CreatedBy; got != "host-b" {
			t.Errorf("record of %s", got)
		}
	})
	t.Run("tells of damage each time", func(t *testing.T) {
		for content, want := range map[string]error{"x": catalog.ErrDamaged, `{"version":4}`: catalog.ErrNewer} {
			root := t.TempDir()
			c := open(t, root)
			write(t, inside(root, "volumes", "data.json"), content)
			found := catalog.Found{}
			for range 3 {
				var err error
				found, err = c.LookupAgain("data", found)
				wantError(t, err, want)
			}
		}
	})
}

// countOpens counts how often a file is opened from now on.
func countOpens(t *testing.T, path string) func() int {
	t.Helper()
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	_, err = syscall.InotifyAddWatch(fd, path, syscall.IN_OPEN)
	must(t, err)
	opens := 0
	return func() int {
		buffer := make([]byte, 4096)
		for {
			n, err := syscall.Read(fd, buffer)
			if err != nil || n <= 0 {
				return opens
			}
			opens += n / syscall.SizeofInotifyEvent // of a file itself an event has no name
		}
	}
}
