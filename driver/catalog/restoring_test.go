package catalog_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

// removed makes a volume and has it in the trash, without a record.
func removed(t *testing.T, c *catalog.Catalog, root, path string) catalog.Record {
	t.Helper()
	r := volume(t, c, root, path)
	must(t, c.MoveToTrash(r))
	must(t, c.DropRemoved(r))
	return r
}

// trashed reads what is in the trash.
func trashed(t *testing.T, c *catalog.Catalog) []catalog.TrashEntry {
	t.Helper()
	ids, err := c.Trash()
	must(t, err)
	var all []catalog.TrashEntry
	for _, id := range ids {
		one, err := c.Trashed(id)
		must(t, err)
		all = append(all, one)
	}
	return all
}

// wantRestored fails unless the volume is there, whole, and its entry has left the trash.
func wantRestored(t *testing.T, c *catalog.Catalog, root, name, path string) {
	t.Helper()
	r, err := c.Lookup(name)
	must(t, err)
	if r.State != catalog.Ready || r.Path != path || r.Trash != "" || r.Directory != 0 || !r.Made {
		t.Errorf("record %+v", r)
	}
	if got := read(t, filepath.Join(root, path, "file")); got != "rows" {
		t.Errorf("file %q", got)
	}
	wantNames(t, inside(root, "trash"))
	wantNames(t, inside(root, "tmp"))
}

func TestRestore(t *testing.T) {
	for _, row := range []struct{ name, path, as, wantName, wantPath string }{
		{"brings a volume back to its place", "/data", "", "data", "/data"},
		{"makes the directories on the way", "/apps/web/data", "", "data", "/apps/web/data"},
		{"gives it another name", "/apps/web/data", "web", "web", "/web"},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			r := removed(t, c, root, row.path)
			all := trashed(t, c)
			if len(all) != 1 || all[0].ID != r.Trash || all[0].Record.Name != "data" || all[0].Trouble != nil ||
				!all[0].Removed.Equal(time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)) {
				t.Fatalf("the trash has %+v", all)
			}
			back, err := c.Restore(r.Trash, row.as)
			must(t, err)
			if now, err := c.Lookup(row.wantName); err != nil || now.State != catalog.Removing {
				t.Errorf("half there it is %+v, %v", now, err)
			}
			must(t, c.Restored(back))
			wantRestored(t, c, root, row.wantName, row.wantPath)
		})
	}
}

func TestRestoreTouchesNothingThatIsThere(t *testing.T) {
	for _, row := range []struct {
		name string
		put  func(*testing.T, *catalog.Catalog, string)
	}{
		{"a volume of that name", func(t *testing.T, c *catalog.Catalog, _ string) { add(t, c, record("data", at("/elsewhere"))) }},
		{"a directory with content", func(t *testing.T, _ *catalog.Catalog, root string) { write(t, filepath.Join(root, "data/other"), "") }},
		{"an empty directory", func(t *testing.T, _ *catalog.Catalog, root string) {
			must(t, os.Mkdir(filepath.Join(root, "data"), 0o700))
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			r := removed(t, c, root, "/data")
			row.put(t, c, root)
			if _, err := c.Restore(r.Trash, ""); !errors.Is(err, catalog.ErrTaken) {
				t.Errorf("%v, want %v", err, catalog.ErrTaken)
			}
			if got := read(t, inside(root, "trash", r.Trash, "data", "file")); got != "rows" {
				t.Errorf("in the trash is %q", got)
			}
			back, err := c.Restore(r.Trash, "other")
			must(t, err)
			must(t, c.Restored(back))
			wantRestored(t, c, root, "other", "/other")
		})
	}
}

// The removal's verdict lives for a day: one of the half restored volume is another removal.
func TestRestorationForgetsTheVerdictOfTheRemoval(t *testing.T) {
	root := t.TempDir()
	c := open(t, root)
	r := removed(t, c, root, "/data")
	if got, err := c.Decide(r.Trash, catalog.Goes); err != nil || got != catalog.Goes {
		t.Fatalf("%s, %v", got, err)
	}
	_, err := c.Restore(r.Trash, "")
	must(t, err)
	if got, err := c.Decide(r.Trash, catalog.Stays); err != nil || got != catalog.Stays {
		t.Errorf("%s, %v", got, err)
	}
}

// A host that was slow takes the record of the restoration for that of the removal which it ends.
func TestRestorationSurvivesTheEndOfTheRemoval(t *testing.T) {
	root := t.TempDir()
	c := open(t, root)
	r := removed(t, c, root, "/data")
	add(t, c, r) // the removal's, which is about to be dropped
	back, err := c.Restore(r.Trash, "")
	must(t, err)
	must(t, c.DropRemoved(r))
	must(t, c.Restored(back))
	wantRestored(t, c, root, "data", "/data")
}

func TestTwoRestorationsOfOneEntryBothSucceed(t *testing.T) {
	root := t.TempDir()
	a, b := open(t, root), open(t, root)
	r := removed(t, a, root, "/data")
	one, err := a.Restore(r.Trash, "")
	must(t, err)
	two, err := b.Restore(r.Trash, "")
	must(t, err)
	must(t, a.Restored(one))
	must(t, b.Restored(two))
	wantRestored(t, a, root, "data", "/data")
}

func TestRestorationOfWhatWasRemovedAgainFails(t *testing.T) {
	root := t.TempDir()
	c := open(t, root)
	r := removed(t, c, root, "/data")
	back, err := c.Restore(r.Trash, "")
	must(t, err)
	// It goes at the moment in which the restoration ends: there is a directory, and then none.
	must(t, c.Drop("data"))
	must(t, os.Rename(filepath.Join(root, "data"), filepath.Join(root, "gone")))
	ready := back
	ready.State, ready.Trash, ready.Directory = catalog.Ready, "", 0
	wantError(t, c.EndRestoration(back, ready), catalog.ErrTaken)
	wantNone(t, c, "data")
}

func TestRestorationOfWhatIsAnotherVolumeByNowFails(t *testing.T) {
	root := t.TempDir()
	c := open(t, root)
	r := removed(t, c, root, "/data")
	back, err := c.Restore(r.Trash, "")
	must(t, err)
	must(t, c.Drop("data"))
	other := add(t, c, record("data", by("other")))
	wantError(t, c.Restored(back), catalog.ErrTaken)
	wantRecord(t, c, other)
}

func TestRestorationThatWasCutOff(t *testing.T) {
	steps := map[string]func(*testing.T, *catalog.Catalog, string, catalog.Record){
		"after the record": func(t *testing.T, c *catalog.Catalog, _ string, r catalog.Record) { add(t, c, r) },
		"after the move": func(t *testing.T, c *catalog.Catalog, _ string, r catalog.Record) {
			_, err := c.Restore(r.Trash, "")
			must(t, err)
		},
	}
	for name, cut := range steps {
		t.Run(name+" is repeated", func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			r := removed(t, c, root, "/data")
			cut(t, c, root, r)
			back, err := c.Restore(r.Trash, "")
			must(t, err)
			must(t, c.Restored(back))
			wantRestored(t, c, root, "data", "/data")
		})
		t.Run(name+" is taken back by a removal", func(t *testing.T) {
			root := t.TempDir()
			c := open(t, root)
			r := removed(t, c, root, "/data")
			cut(t, c, root, r)
			half, err := c.Lookup("data")
			must(t, err)
			must(t, c.MoveToTrash(half))
			must(t, c.DropRemoved(half))
			if got := read(t, inside(root, "trash", r.Trash, "data", "file")); got != "rows" {
				t.Errorf("in the trash is %q", got)
			}
			if err := c.Restored(half); !errors.Is(err, catalog.ErrTaken) {
				t.Errorf("to end what was taken back: %v", err)
			}
		})
	}
}

// Of a restoration and a deletion of one entry, on two hosts, one gets the data, whole.
func TestRestoreWhileAnotherHostEmptiesTheTrash(t *testing.T) {
	enough := errors.New("enough")
	for _, row := range []struct {
		name  string
		empty func(t *testing.T, other *catalog.Catalog, id string)
		left  []string // in deleting/
	}{
		{"that has condemned it", func(t *testing.T, other *catalog.Catalog, id string) { must(t, other.Condemn(id)) }, []string{entry}},
		{"that has begun to delete it", func(t *testing.T, other *catalog.Catalog, id string) {
			must(t, other.Condemn(id))
			wantError(t, other.DeleteCondemned(func() error { return enough }), enough)
		}, []string{entry}},
		{"that has deleted it", func(t *testing.T, other *catalog.Catalog, id string) {
			must(t, other.Condemn(id))
			must(t, other.DeleteCondemned(always))
		}, nil},
	} {
		t.Run("fails after one "+row.name, func(t *testing.T) {
			root := t.TempDir()
			a, b := open(t, root), open(t, root)
			r := removed(t, a, root, "/data")
			if _, err := a.RestoreAfter(r.Trash, func() { row.empty(t, b, r.Trash) }); !errors.Is(err, catalog.ErrNoEntry) {
				t.Errorf("%v, want %v", err, catalog.ErrNoEntry)
			}
			if _, err := a.Lookup("data"); !errors.Is(err, catalog.ErrNotFound) || exists(t, filepath.Join(root, "data")) {
				t.Errorf("there is a volume, or a directory of one, %v", err)
			}
			wantNames(t, inside(root, "deleting"), row.left...)
			must(t, b.DeleteCondemned(always))
			wantNames(t, inside(root, "deleting"))
		})
	}
	t.Run("has the data when it was first to move it", func(t *testing.T) {
		root := t.TempDir()
		a, b := open(t, root), open(t, root)
		r := removed(t, a, root, "/data")
		back, err := a.Restore(r.Trash, "")
		must(t, err)
		must(t, b.Condemn(r.Trash))
		must(t, b.DeleteCondemned(always))
		must(t, a.Restored(back))
		wantRestored(t, a, root, "data", "/data")
	})
	// Between the look whether the entry is in the trash still and the move of its data.
	t.Run("finds no data that a deletion has begun with", func(t *testing.T) {
		root := t.TempDir()
		a, b := open(t, root), open(t, root)
		r := removed(t, a, root, "/data")
		held := openDir(t, inside(root, "trash", r.Trash))
		must(t, b.Condemn(r.Trash))
		must(t, b.DeleteCondemned(func() error {
			if there, err := held.Exists("data"); err != nil || there {
				t.Errorf("the data is where a restoration takes it from, %v", err)
			}
			return nil
		}))
	})
}

func TestTrashOfWhatCannotBeRead(t *testing.T) {
	root := t.TempDir()
	c := open(t, root)
	removed(t, c, root, "/data")
	write(t, inside(root, "trash", "20261121T130000Z-garbage", "record.json"), "garbage")
	must(t, os.Mkdir(inside(root, "trash", "by-hand"), 0o700))
	all := trashed(t, c)
	if len(all) != 3 {
		t.Fatalf("the trash has %+v", all)
	}
	for _, one := range all {
		if good := one.Record.Name == "data"; (one.Trouble == nil) != good {
			t.Errorf("%+v", one)
		}
		if one.Trouble != nil {
			if _, err := c.Restore(one.ID, ""); !errors.Is(err, catalog.ErrDamaged) {
				t.Errorf("restore %s: %v", one.ID, err)
			}
		}
	}
	for _, id := range []string{"no-such-entry", "../volumes", ""} {
		if _, err := c.Restore(id, ""); !errors.Is(err, catalog.ErrNoEntry) {
			t.Errorf("restore %q: %v", id, err)
		}
	}
}
