package catalog_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

// open opens the catalogue of a directory that stands for the shared file system.
// Several of them on one directory are several hosts.
func open(t *testing.T, root string) *catalog.Catalog {
	t.Helper()
	c, err := tryOpen(t, root)
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

func tryOpen(t *testing.T, root string) (*catalog.Catalog, error) {
	t.Helper()
	return catalog.Open(openDir(t, root), "host")
}

func openDir(t *testing.T, path string) *tree.Dir {
	t.Helper()
	dir, err := tree.Open(path)
	must(t, err)
	t.Cleanup(func() { _ = dir.Close() })
	return dir
}

// inside is a path in the catalogue under a root.
func inside(root string, names ...string) string {
	return filepath.Join(append([]string{root, catalog.DirName}, names...)...)
}

// record makes a good record of a volume that is ready.
func record(name string, change ...func(*catalog.Record)) catalog.Record {
	r := catalog.Record{
		Version: catalog.Version, Name: name, State: catalog.Ready, Path: "/" + name, Made: true,
		Options: catalog.Options{Access: "many", Remove: catalog.RemoveTrash, Via: "auto"},
		Created: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), CreatedBy: "host",
	}
	for _, c := range change {
		c(&r)
	}
	return r
}

func at(path string) func(*catalog.Record) { return func(r *catalog.Record) { r.Path = path } }

func by(host string) func(*catalog.Record) { return func(r *catalog.Record) { r.CreatedBy = host } }

func removing(trash string, directory uint64) func(*catalog.Record) {
	return func(r *catalog.Record) { r.State, r.Trash, r.Directory = catalog.Removing, trash, directory }
}

func add(t *testing.T, c *catalog.Catalog, r catalog.Record) catalog.Record {
	t.Helper()
	current, won, err := c.Add(r)
	if err != nil || !won || !reflect.DeepEqual(current, r) {
		t.Fatalf("added %+v: %+v, %v, %v", r, current, won, err)
	}
	return r
}

func wantRecord(t *testing.T, c *catalog.Catalog, want catalog.Record) {
	t.Helper()
	got, err := c.Lookup(want.Name)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("record %+v, %v, want %+v", got, err, want)
	}
}

func wantNone(t *testing.T, c *catalog.Catalog, name string) {
	t.Helper()
	_, err := c.Lookup(name)
	wantError(t, err, catalog.ErrNotFound)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	list := []string{}
	for _, entry := range entries {
		list = append(list, entry.Name())
	}
	return list
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Fatalf("in %s: %v, want %v", dir, got, want)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// listing shows all that lies beneath a path.
func listing(t *testing.T, path string) string {
	t.Helper()
	var list strings.Builder
	must(t, filepath.WalkDir(path, func(p string, entry fs.DirEntry, err error) error {
		list.WriteString(strings.TrimPrefix(p, path) + " " + entry.Type().String() + "\n")
		return err
	}))
	return list.String()
}

func TestOpen(t *testing.T) {
	t.Run("makes the catalogue, for root alone whatever the umask", func(t *testing.T) {
		for _, umask := range []int{0, 0o077} {
			before := syscall.Umask(umask)
			t.Cleanup(func() { syscall.Umask(before) })
			root := t.TempDir()
			c := open(t, root)
			add(t, c, record("data", at("/elsewhere")))
			must(t, filepath.WalkDir(inside(root), func(path string, entry fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				info, err := entry.Info()
				want := fs.FileMode(0o600)
				if entry.IsDir() {
					want = fs.ModeDir | 0o700
				}
				if err == nil && info.Mode() != want {
					t.Errorf("%s: mode %v, want %v", path, info.Mode(), want)
				}
				return err
			}))
			wantNames(t, inside(root), "catalog.json", "deleting", "hosts", "leases", "paths", "tmp", "trash", "verdicts", "volumes")
			wantNames(t, inside(root, "tmp"))
		}
	})
	t.Run("finds the same catalogue again", func(t *testing.T) {
		root := t.TempDir()
		a, b := open(t, root), open(t, root)
		if a.ID() == "" || a.ID() != b.ID() || a.ID() == open(t, t.TempDir()).ID() {
			t.Errorf("ids %q, %q", a.ID(), b.ID())
		}
		must(t, a.CheckFormat())
	})
	t.Run("of many hosts at once makes one catalogue", func(t *testing.T) {
		root := t.TempDir()
		dir := openDir(t, root)
		ids := make([]string, 16)
		var group sync.WaitGroup
		for i := range ids {
			group.Go(func() {
				c, err := catalog.Open(dir, fmt.Sprint("host", i))
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = c.ID()
				c.Close()
			})
		}
		group.Wait()
		if len(slices.Compact(ids)) != 1 || ids[0] == "" {
			t.Errorf("ids %v", ids)
		}
		wantNames(t, inside(root, "tmp"))
	})
	t.Run("makes what a crash or an operator took away", func(t *testing.T) {
		root := t.TempDir()
		id := open(t, root).ID()
		must(t, os.Remove(inside(root, "paths")))
		must(t, os.Remove(inside(root, "tmp")))
		c := open(t, root)
		if c.ID() != id {
			t.Errorf("id %q, was %q", c.ID(), id)
		}
		add(t, c, record("data", at("/elsewhere")))
	})
	t.Run("leaves nothing open", func(t *testing.T) {
		root := t.TempDir()
		dir := openDir(t, root)
		before := len(names(t, "/proc/self/fd"))
		c, err := catalog.Open(dir, "host")
		must(t, err)
		c.Close()
		write(t, inside(root, "catalog.json"), "garbage")
		if _, err := catalog.Open(dir, "host"); err == nil {
			t.Error("opened")
		}
		if after := len(names(t, "/proc/self/fd")); after != before {
			t.Errorf("%d descriptors, were %d", after, before)
		}
	})
}

func TestOpenOfWhatIsNoCatalogue(t *testing.T) {
	for _, row := range []struct {
		name  string
		plant func(t *testing.T, root string)
		want  string
	}{
		{"a link in its place", func(t *testing.T, root string) {
			must(t, os.Symlink(t.TempDir(), inside(root)))
		}, "symbolic link"},
		{"a file in its place", func(t *testing.T, root string) { write(t, inside(root), "") }, "not a directory"},
		{"a link in place of a directory", func(t *testing.T, root string) {
			must(t, os.Mkdir(inside(root), 0o700))
			must(t, os.Symlink(t.TempDir(), inside(root, "tmp")))
		}, "symbolic link"},
		{"an empty format", func(t *testing.T, root string) { write(t, inside(root, "catalog.json"), "") }, "damaged: restore it"},
		{"garbage as format", func(t *testing.T, root string) { write(t, inside(root, "catalog.json"), "x") }, "damaged: restore it"},
		{"a format cut short", func(t *testing.T, root string) {
			write(t, inside(root, "catalog.json"), `{"version":1,"id":"A`)
		}, "damaged: restore it"},
		{"a format without id", func(t *testing.T, root string) {
			write(t, inside(root, "catalog.json"), `{"version":1}`)
		}, "damaged: restore it"},
		{"a link as format", func(t *testing.T, root string) {
			target := filepath.Join(t.TempDir(), "format")
			write(t, target, `{"version":1,"id":"A"}`)
			must(t, os.Mkdir(inside(root), 0o700))
			must(t, os.Symlink(target, inside(root, "catalog.json")))
		}, "symbolic link"},
		{"a directory as format", func(t *testing.T, root string) {
			must(t, os.MkdirAll(inside(root, "catalog.json"), 0o700))
		}, "not a regular file"},
	} {
		t.Run(row.name+" is an error and stays", func(t *testing.T) {
			root := t.TempDir()
			row.plant(t, root)
			before := listing(t, root)
			if c, err := tryOpen(t, root); err == nil {
				c.Close()
				t.Fatal("opened")
			} else if !strings.Contains(err.Error(), row.want) || errors.Is(err, catalog.ErrNewer) {
				t.Errorf("error %v, want %s", err, row.want)
			}
			if after := listing(t, root); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

func TestNewerCatalogue(t *testing.T) {
	formats := []string{
		`{"version":2,"id":"A"}`,
		`{"version":99,"id":"A","more":[]}`,
		// A later format may have no id, or one that is no text.
		`{"version":2}`,
		`{"id":{"number":7},"version":2}`,
	}
	t.Run("is refused and left as it is", func(t *testing.T) {
		for _, format := range formats {
			root := t.TempDir()
			write(t, inside(root, "catalog.json"), format)
			_, err := tryOpen(t, root)
			wantError(t, err, catalog.ErrNewer)
			if !strings.Contains(err.Error(), "upgrade the plugin") {
				t.Errorf("error %v", err)
			}
			wantNames(t, inside(root), "catalog.json")
		}
	})
	t.Run("is noticed by a host that has it open", func(t *testing.T) {
		for _, format := range formats {
			root := t.TempDir()
			c := open(t, root)
			must(t, c.CheckFormat())
			write(t, inside(root, "catalog.json"), format)
			wantError(t, c.CheckFormat(), catalog.ErrNewer)
		}
	})
	t.Run("is noticed when it takes the other's place", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		current := inside(root, "catalog.json")
		ours, err := os.ReadFile(current)
		must(t, err)
		newer := bytes.Replace(ours, []byte(`"version":1`), []byte(`"version":2`), 1)
		for range 2 { // also after it was read anew
			must(t, c.CheckFormat())
			write(t, inside(root, "new"), string(newer))
			must(t, os.Rename(inside(root, "new"), current))
			wantError(t, c.CheckFormat(), catalog.ErrNewer)
			wantError(t, c.CheckFormat(), catalog.ErrNewer)
			write(t, inside(root, "new"), string(ours))
			must(t, os.Rename(inside(root, "new"), current))
		}
		must(t, os.Remove(current))
		wantError(t, c.CheckFormat(), fs.ErrNotExist)
	})
}
