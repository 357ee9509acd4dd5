package catalog_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

func TestAdd(t *testing.T) {
	t.Run("has one winner of many hosts, and all see its record", func(t *testing.T) {
		root := t.TempDir()
		hosts := []*catalog.Catalog{open(t, root), open(t, root)}
		const rounds, callers = 10, 16
		for round := range rounds {
			name := fmt.Sprint("data", round)
			var group sync.WaitGroup
			var wins, seen sync.Map
			start := make(chan struct{})
			for caller := range callers {
				group.Go(func() {
					<-start
					mine := record(name, at(fmt.Sprint("/", name, "/", caller)), by(fmt.Sprint("host", caller)))
					current, won, err := hosts[caller%2].Add(mine)
					if err != nil {
						t.Error(err)
					}
					if won {
						wins.Store(caller, true)
					}
					seen.Store(current.CreatedBy+current.Path, true)
				})
			}
			close(start)
			group.Wait()
			count := func(m *sync.Map) (n int) {
				m.Range(func(any, any) bool { n++; return true })
				return n
			}
			if count(&wins) != 1 || count(&seen) != 1 {
				t.Errorf("%d winners, %d records seen", count(&wins), count(&seen))
			}
		}
		wantNames(t, inside(root, "tmp"))
	})
	t.Run("returns the record that is there", func(t *testing.T) {
		root := t.TempDir()
		a, b := open(t, root), open(t, root)
		first := add(t, a, record("data", by("a")))
		current, won, err := b.Add(record("data", by("b")))
		if err != nil || won || !reflect.DeepEqual(current, first) {
			t.Errorf("%+v, %v, %v", current, won, err)
		}
		wantRecord(t, b, first)
	})
	t.Run("does not replace a damaged record, nor a link", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		write(t, inside(root, "volumes", "damaged.json"), "x")
		target := filepath.Join(t.TempDir(), "target")
		must(t, os.Symlink(target, inside(root, "volumes", "link.json")))
		for _, name := range []string{"damaged", "link"} {
			_, won, err := c.Add(record(name))
			wantError(t, err, catalog.ErrDamaged)
			if won {
				t.Errorf("%s: won", name)
			}
		}
		if read(t, inside(root, "volumes", "damaged.json")) != "x" || exists(t, target) {
			t.Error("something was written")
		}
		wantNames(t, inside(root, "tmp"))
	})
	t.Run("keeps all that a record says", func(t *testing.T) {
		c := open(t, t.TempDir())
		uid, gid, mode := uint32(0), uint32(4294967294), catalog.Mode(0o2770)
		add(t, c, record("data", func(r *catalog.Record) {
			r.State, r.Path = catalog.Creating, "/apps/データ x"
			r.Options = catalog.Options{
				UID: &uid, GID: &gid, Mode: &mode, Access: "one", Remove: catalog.RemoveDelete,
				ReadOnly: true, Via: "direct", NFS: []string{"hard", "rsize=4096"},
			}
		}))
		pointer := add(t, c, record("far", func(r *catalog.Record) { r.FileSystem = "nfs://server/export" }))
		wantRecord(t, c, pointer)
		got, err := c.Lookup("data")
		must(t, err)
		if *got.Options.UID != 0 || *got.Options.GID != gid || *got.Options.Mode != mode {
			t.Errorf("%+v", got.Options)
		}
	})
}

func TestReplaceAndDrop(t *testing.T) {
	root := t.TempDir()
	a, b := open(t, root), open(t, root)
	first := add(t, a, record("data", at("/elsewhere")))
	add(t, a, record("other"))
	second := first
	second.State = catalog.Removing
	must(t, b.Replace(first, second))
	wantRecord(t, a, second)
	wantNames(t, inside(root, "paths"), catalog.Mark(second))
	wantNames(t, inside(root, "tmp"))

	list, err := b.Names()
	if slices.Sort(list); err != nil || !slices.Equal(list, []string{"data", "other"}) {
		t.Errorf("names %v, %v", list, err)
	}
	for range 2 {
		must(t, b.Drop("data"))
		wantNone(t, a, "data")
	}
	must(t, a.Drop("never-was"))
	wantNames(t, inside(root, "paths"))
	wantNames(t, inside(root, "volumes"), "other.json")
}

func TestStamp(t *testing.T) {
	root := t.TempDir()
	a, b := open(t, root), open(t, root)
	before, err := b.Stamp()
	must(t, err)
	if again, err := b.Stamp(); err != nil || again != before {
		t.Errorf("stamp %v, %v, was %v", again, err, before)
	}
	for _, row := range []struct {
		name   string
		change func() error
	}{
		{"an added", func() error { _, _, err := a.Add(record("data")); return err }},
		{"a replaced", func() error { return a.Replace(record("data"), record("data", removing(entry, 7))) }},
		{"a removed", func() error { return a.Drop("data") }},
	} {
		// A clock may stand still for some milliseconds.
		must(t, os.Chtimes(inside(root, "volumes"), time.Time{}, time.Unix(1, 0)))
		before, err := b.Stamp()
		must(t, err)
		must(t, row.change())
		if after, err := b.Stamp(); err != nil || after == before {
			t.Errorf("%s record leaves the stamp at %v, %v", row.name, after, err)
		}
	}
}

func TestNamesIgnoresWhatIsNoRecord(t *testing.T) {
	root := t.TempDir()
	c := open(t, root)
	add(t, c, record("data"))
	for _, name := range []string{".json", ".hidden.json", "x.json.damaged-ABCDEFGH", "x.tmp", "with blank.json"} {
		write(t, inside(root, "volumes", name), "{}")
	}
	if list, err := c.Names(); err != nil || !slices.Equal(list, []string{"data"}) {
		t.Errorf("names %v, %v", list, err)
	}
}

func TestDropRemoved(t *testing.T) {
	mine := record("data", removing("entry", 7))
	for _, row := range []struct {
		name    string
		current catalog.Record
		dropped bool
	}{
		{"drops the record of this removal", mine, true},
		{"drops it also if it has changed otherwise", record("data", removing("entry", 8), by("other")), true},
		{"leaves one of another removal", record("data", removing("later", 7)), false},
		{"leaves a new volume of the name", record("data", by("other")), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			a, b := open(t, root), open(t, root)
			add(t, a, row.current)
			for range 2 {
				must(t, b.DropRemoved(mine))
				if row.dropped {
					wantNone(t, a, "data")
				} else {
					wantRecord(t, a, row.current)
				}
			}
		})
	}
	t.Run("leaves one that it cannot read", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		write(t, inside(root, "volumes", "data.json"), "x")
		wantError(t, c.DropRemoved(mine), catalog.ErrDamaged)
		wantNames(t, inside(root, "volumes"), "data.json")
	})
}

func TestDropOfARecordThatChangedAfterTheLook(t *testing.T) {
	mine, fresh := record("data", at("/own"), removing("entry", 7)), record("data", at("/own"), by("other"))
	removed := func(r catalog.Record) bool { return r.Trash == "entry" }
	for _, row := range []struct {
		name    string
		taken   string
		present *catalog.Record
		want    *catalog.Record
	}{
		{"drops the one that is meant", text(t, mine), nil, nil},
		{"leaves what has come since", text(t, mine), &fresh, &fresh},
		{"puts another one back", text(t, fresh), nil, &fresh},
		{"prefers what has come since", text(t, record("data", by("third"))), &fresh, &fresh},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			add(t, c, fresh)
			if row.present == nil {
				must(t, os.Remove(inside(root, "volumes", "data.json")))
			}
			write(t, inside(root, catalog.TmpDir, "taken"), row.taken)
			must(t, c.DropTaken("taken", "data", removed))
			wantNames(t, inside(root, catalog.TmpDir))
			if row.want == nil {
				wantNone(t, c, "data")
				wantNames(t, inside(root, "paths"))
				return
			}
			wantRecord(t, c, *row.want)
			wantNames(t, inside(root, "paths"), catalog.Mark(*row.want))
		})
	}
	t.Run("puts one back that it cannot read", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		must(t, os.Mkdir(inside(root, catalog.TmpDir, "taken"), 0o700))
		if err := c.DropTaken("taken", "data", removed); err == nil {
			t.Error("no error")
		}
		wantNames(t, inside(root, "volumes"), "data.json")
		wantNames(t, inside(root, catalog.TmpDir))
	})
}

// TestANewVolumeOfTheNameKeepsItsMark has one host finish a removal while another makes
// the volume anew, again and again.
func TestANewVolumeOfTheNameKeepsItsMark(t *testing.T) {
	root := t.TempDir()
	a, b := open(t, root), open(t, root)
	old, fresh := record("data", at("/own"), removing("entry", 7)), record("data", at("/own"), by("other"))
	for range 300 {
		add(t, a, old)
		done := make(chan error)
		go func() { done <- a.DropRemoved(old) }()
		for won := false; !won; {
			var err error
			_, won, err = b.Add(fresh)
			if err != nil && !errors.Is(err, catalog.ErrNotFound) {
				t.Error(err)
			}
		}
		must(t, <-done)
		wantRecord(t, b, fresh)
		wantNames(t, inside(root, "paths"), catalog.Mark(fresh))
		must(t, b.Drop("data"))
		wantNames(t, inside(root, "paths"))
	}
}

func TestSetAside(t *testing.T) {
	t.Run("keeps the bytes and frees the name", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		var kept []string
		for _, text := range []string{"first", "second"} {
			write(t, inside(root, "volumes", "data.json"), text)
			aside, err := c.SetAside("data")
			must(t, err)
			kept = append(kept, aside)
		}
		for i, text := range []string{"first", "second"} {
			if got := read(t, inside(root, kept[i])); got != text {
				t.Errorf("%s: %q", kept[i], got)
			}
		}
		wantNone(t, c, "data")
		add(t, c, record("data"))
		if list, err := c.Names(); err != nil || !slices.Equal(list, []string{"data"}) {
			t.Errorf("names %v, %v", list, err)
		}
	})
	t.Run("takes a link and a directory away, too", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		target := t.TempDir()
		must(t, os.Symlink(target, inside(root, "volumes", "link.json")))
		write(t, inside(root, "volumes", "dir.json", "file"), "kept")
		_, err := c.SetAside("link")
		must(t, err)
		aside, err := c.SetAside("dir")
		must(t, err)
		if got := read(t, inside(root, aside, "file")); got != "kept" || !exists(t, target) {
			t.Errorf("kept %q", got)
		}
	})
	t.Run("leaves a record that another host has put in the damaged one's place", func(t *testing.T) {
		root := t.TempDir()
		c := open(t, root)
		add(t, c, record("data"))
		before := listing(t, root)
		_, err := c.SetAside("data")
		wantError(t, err, catalog.ErrChanged)
		if after := listing(t, root); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
	})
	t.Run("of what is not there is an error", func(t *testing.T) {
		_, err := open(t, t.TempDir()).SetAside("data")
		wantError(t, err, fs.ErrNotExist)
	})
}

func TestNamesDoNotClimb(t *testing.T) {
	root := t.TempDir()
	c := open(t, root)
	before := listing(t, root)
	for _, name := range []string{"../catalog", "../paths/x", "a/b", "x\x00"} {
		_, lookupErr := c.Lookup(name)
		_, _, addErr := c.Add(record(name, at("/elsewhere")))
		_, asideErr := c.SetAside(name)
		for call, err := range map[string]error{
			"Lookup": lookupErr, "Add": addErr, "Replace": c.Replace(record(name), record(name)), "SetAside": asideErr, "Drop": c.Drop(name),
		} {
			if err == nil {
				t.Errorf("%s took %q", call, name)
			}
		}
	}
	if after := listing(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// A record's text is on file systems that other versions write to.
func TestRecordText(t *testing.T) {
	root := t.TempDir()
	mode := catalog.Mode(0o700)
	add(t, open(t, root), record("data", func(r *catalog.Record) { r.Options.Mode = &mode }))
	var got, want any
	must(t, json.Unmarshal([]byte(read(t, inside(root, "volumes", "data.json"))), &got))
	must(t, json.Unmarshal([]byte(`{
		"version": 1, "name": "data", "state": "ready", "path": "/data", "made": true,
		"options": {"mode": "0700", "access": "many", "remove": "trash", "via": "auto"},
		"created": "2026-11-21T12:00:00Z", "created_by": "host"}`), &want))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("record %v, want %v", got, want)
	}
}
