package state_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/state"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open opens a table that nothing may be wrong with.
func open(t *testing.T, path string, durability state.Durability) *state.Table[string] {
	t.Helper()
	table, report := openDamaged(t, path, durability)
	if report != (state.Report{}) {
		t.Fatalf("report %+v of a good table", report)
	}
	return table
}

func openDamaged(t *testing.T, path string, durability state.Durability) (*state.Table[string], state.Report) {
	t.Helper()
	table, report, err := state.Open[string](path, durability)
	must(t, err)
	t.Cleanup(func() { _ = table.Close() })
	return table, report
}

// reopen is what the next start of the plugin finds.
func reopen(t *testing.T, table *state.Table[string], path string, durability state.Durability) *state.Table[string] {
	t.Helper()
	must(t, table.Close())
	return open(t, path, durability)
}

func want(t *testing.T, table *state.Table[string], values map[string]string) {
	t.Helper()
	if got := table.All(); !maps.Equal(got, values) {
		t.Fatalf("values %v, want %v", got, values)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

// beside are the files in the table's directory other than the table.
func beside(t *testing.T, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	var names []string
	for _, entry := range entries {
		if entry.Name() != filepath.Base(path) {
			names = append(names, entry.Name())
		}
	}
	return names
}

// both runs a test with changes that outlive a power cut and with such that do not.
func both(t *testing.T, test func(*testing.T, state.Durability)) {
	t.Helper()
	t.Run("durable", func(t *testing.T) { test(t, state.Durable) })
	t.Run("volatile", func(t *testing.T) { test(t, state.Volatile) })
}

func TestTable(t *testing.T) {
	both(t, func(t *testing.T, durability state.Durability) {
		t.Run("keeps what was put, replaced and deleted", func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "table")
			table := open(t, path, durability)
			want(t, table, map[string]string{})
			must(t, table.Put("a", "1"))
			must(t, table.PutAll(map[string]string{"b": "2", "c": "3", "d": "4"}))
			must(t, table.Put("b", "2b"))
			must(t, table.Delete("c"))
			must(t, table.PutAll(nil))
			values := map[string]string{"a": "1", "b": "2b", "d": "4"}
			want(t, table, values)
			table = reopen(t, table, path, durability)
			want(t, table, values)
			// Appended to the file that was there, not only to one just written.
			must(t, table.Put("c", "again"))
			must(t, table.Delete("a"))
			table = reopen(t, table, path, durability)
			want(t, table, map[string]string{"b": "2b", "c": "again", "d": "4"})
			if got := beside(t, path); got != nil {
				t.Errorf("left behind: %v", got)
			}
		})
		t.Run("takes any text as key and value", func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "table")
			table := open(t, path, durability)
			values := map[string]string{}
			for _, text := range []string{"", "\n", "a\nb", "\x00", "データ", `"\`, "<&>", "\u2028", "null", strings.Repeat("long ", 5000)} {
				values[text] = text
				must(t, table.Put(text, text))
			}
			want(t, reopen(t, table, path, durability), values)
		})
		t.Run("deletes what is not there without writing", func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "table")
			table := open(t, path, durability)
			must(t, table.Put("a", "1"))
			before := read(t, path)
			must(t, table.Delete("never was"))
			if after := read(t, path); !bytes.Equal(before, after) {
				t.Errorf("file %q, was %q", after, before)
			}
		})
	})
	t.Run("tells an absent value from an empty one", func(t *testing.T) {
		table := open(t, filepath.Join(t.TempDir(), "table"), state.Volatile)
		must(t, table.Put("empty", ""))
		if value, ok := table.Get("empty"); !ok || value != "" {
			t.Errorf("empty: %q, %v", value, ok)
		}
		if value, ok := table.Get("absent"); ok || value != "" {
			t.Errorf("absent: %q, %v", value, ok)
		}
	})
	t.Run("keeps a value that encodes as null", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "table")
		table, _, err := state.Open[*int](path, state.Volatile)
		must(t, err)
		must(t, table.Put("nothing", nil))
		must(t, table.Close())
		table, report, err := state.Open[*int](path, state.Volatile)
		must(t, err)
		defer table.Close()
		if value, ok := table.Get("nothing"); !ok || value != nil || report.Damaged != 0 {
			t.Errorf("%v, %v, report %+v", value, ok, report)
		}
	})
	t.Run("hands out copies of itself", func(t *testing.T) {
		table := open(t, filepath.Join(t.TempDir(), "table"), state.Volatile)
		must(t, table.Put("a", "1"))
		all := table.All()
		all["a"], all["b"] = "changed", "new"
		want(t, table, map[string]string{"a": "1"})
	})
	t.Run("is for its owner's eyes only", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "table")
		open(t, path, state.Durable)
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
	})
	t.Run("changes nothing for a value that cannot be encoded", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "table")
		table, _, err := state.Open[any](path, state.Volatile)
		must(t, err)
		defer table.Close()
		must(t, table.Put("a", "1"))
		before := read(t, path)
		err = table.PutAll(map[string]any{"a": "2", "b": func() {}, "c": "3"})
		if err == nil || errors.Is(err, state.ErrHostDisk) || !strings.Contains(err.Error(), `"b"`) {
			t.Errorf("error %v", err)
		}
		if got := table.All(); len(got) != 1 || got["a"] != "1" || !bytes.Equal(read(t, path), before) {
			t.Errorf("values %v, file %q", got, read(t, path))
		}
	})
	t.Run("fails where the disk has no place for it", func(t *testing.T) {
		dir := t.TempDir()
		for _, path := range []string{filepath.Join(dir, "none", "table"), dir} {
			if table, _, err := state.Open[string](path, state.Durable); err == nil {
				table.Close()
				t.Errorf("opened %s", path)
			}
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	both(t, func(t *testing.T, durability state.Durability) {
		const users, rounds = 8, 60
		path := filepath.Join(t.TempDir(), "table")
		table := open(t, path, durability)
		must(t, table.Put("shared", "1"))
		var group sync.WaitGroup
		for user := range users {
			group.Go(func() {
				for round := range rounds {
					key, value := fmt.Sprint(user, "-", round%7), fmt.Sprint(round)
					err := errors.Join(
						table.Put(key, value),
						table.PutAll(map[string]string{key + "x": value, key + "y": value}),
						table.Put("shared", value),
						table.Delete(key+"x"),
					)
					if got, ok := table.Get(key); err != nil || !ok || got != value {
						t.Errorf("%s: %q, %v, %v, want %q", key, got, ok, err, value)
					}
					if got := table.All()[key+"y"]; got != value {
						t.Errorf("%sy: %q, want %q", key, got, value)
					}
				}
			})
		}
		group.Wait()
		values := table.All()
		if len(values) != users*7*2+1 {
			t.Errorf("%d values", len(values))
		}
		want(t, reopen(t, table, path, durability), values)
	})
}

// historyAllowed is the package's own.
const historyAllowed = 1000

func TestCompaction(t *testing.T) {
	both(t, func(t *testing.T, durability state.Durability) {
		t.Run("bounds the file and keeps the values", func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "table")
			table := open(t, path, durability)
			values := map[string]string{"a": "1", "b": "2", "gone": "x"}
			must(t, table.PutAll(values))
			must(t, table.Delete("gone"))
			delete(values, "gone")
			longest, shrunk, before := 0, false, 0
			for round := range 2*historyAllowed + 500 {
				values["c"] = fmt.Sprint(round)
				must(t, table.Put("c", values["c"]))
				lines := bytes.Count(read(t, path), []byte("\n"))
				shrunk = shrunk || lines < before
				before, longest = lines, max(longest, lines)
			}
			if most := 1 + 2*len(values) + historyAllowed; !shrunk || longest > most {
				t.Errorf("%d lines at most, shrunk %v, want %d", longest, shrunk, most)
			}
			want(t, table, values)
			want(t, reopen(t, table, path, durability), values)
			if got := beside(t, path); got != nil {
				t.Errorf("left behind: %v", got)
			}
		})
	})
	t.Run("is made up for at the next start", func(t *testing.T) {
		path := longHistory(t, t.TempDir(), 2*historyAllowed)
		before := len(read(t, path))
		table := open(t, path, state.Durable)
		want(t, table, map[string]string{"a": "last"})
		if after := len(read(t, path)); after > before/100 {
			t.Errorf("%d bytes, were %d", after, before)
		}
		want(t, reopen(t, table, path, state.Durable), map[string]string{"a": "last"})
	})
	t.Run("does not touch a file with little history at start", func(t *testing.T) {
		path := longHistory(t, t.TempDir(), historyAllowed)
		before, err := os.Stat(path)
		must(t, err)
		open(t, path, state.Durable)
		after, err := os.Stat(path)
		must(t, err)
		if !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
			t.Error("the file was written")
		}
	})
}

// longHistory writes a table with one value and many lines.
func longHistory(t *testing.T, dir string, lines int) string {
	t.Helper()
	path := filepath.Join(dir, "table")
	data := []byte(header)
	for range lines - 1 {
		data = append(data, line(`{"key":"a","value":"history"}`)...)
	}
	data = append(data, line(`{"key":"a","value":"last"}`)...)
	must(t, os.WriteFile(path, data, 0o600))
	return path
}

// smallDisk mounts a disk that is soon full.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	must(t, os.Mkdir(dir, 0o700))
	must(t, syscall.Mount("small", dir, "tmpfs", 0, "size=128k"))
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// fill leaves no room on a disk, until the function it returns is called.
func fill(t *testing.T, disk string) (empty func()) {
	t.Helper()
	path := filepath.Join(disk, "filler")
	file, err := os.Create(path)
	must(t, err)
	defer file.Close()
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() { must(t, os.Remove(path)) }
}

func TestChangesThatAreSavedLater(t *testing.T) {
	both(t, func(t *testing.T, durability state.Durability) {
		path := filepath.Join(t.TempDir(), "table")
		table := open(t, path, durability)
		old := map[string]string{"a": "1", "b": "2", "c": "3"}
		must(t, table.PutAll(old))
		before := read(t, path)
		table.PutLater("a", "later")
		table.DeleteLater("b")
		table.PutLater("c", "never seen")
		table.DeleteLater("d")
		now := map[string]string{"a": "later", "c": "never seen"}
		want(t, table, now)
		if after := read(t, path); !bytes.Equal(after, before) {
			t.Fatal("they were written at once")
		}
		want(t, open(t, path, durability), old) // what is known at a crash now
		// What is changed again meanwhile is saved as it is then.
		must(t, table.Put("c", "now"))
		now["c"] = "now"
		want(t, open(t, path, durability), map[string]string{"a": "1", "b": "2", "c": "now"})
		must(t, table.Save())
		want(t, table, now)
		want(t, open(t, path, durability), now)
		saved := read(t, path)
		must(t, table.Save())
		if after := read(t, path); !bytes.Equal(after, saved) {
			t.Error("they were saved twice")
		}
	})
}

func TestChangesThatAreSavedLaterStayWhileTheDiskIsFull(t *testing.T) {
	disk := smallDisk(t)
	path := filepath.Join(disk, "table")
	table := open(t, path, state.Volatile)
	must(t, table.Put("a", "old"))
	empty := fill(t, disk)
	big := strings.Repeat("big", 4000)
	table.PutLater("a", big)
	for range 3 {
		if err := table.Save(); !errors.Is(err, state.ErrHostDisk) {
			t.Fatalf("error %v", err)
		}
		want(t, table, map[string]string{"a": big})
	}
	empty()
	must(t, table.Save())
	want(t, reopen(t, table, path, state.Volatile), map[string]string{"a": big})
}

func TestFullDisk(t *testing.T) {
	both(t, func(t *testing.T, durability state.Durability) {
		big := strings.Repeat("big", 4000)
		for _, row := range []struct {
			name   string
			change func(*state.Table[string]) error
			after  map[string]string
		}{
			{"Put", func(table *state.Table[string]) error { return table.Put("a", big) }, map[string]string{"a": big, big: "old"}},
			{"PutAll", func(table *state.Table[string]) error {
				return table.PutAll(map[string]string{"a": "new", "b": big, "c": "new"})
			}, map[string]string{"a": "new", "b": big, "c": "new", big: "old"}},
			{"Delete", func(table *state.Table[string]) error { return table.Delete(big) }, map[string]string{"a": "old"}},
		} {
			t.Run(row.name+" leaves all as it was, and works once there is room", func(t *testing.T) {
				disk := smallDisk(t)
				path := filepath.Join(disk, "table")
				table := open(t, path, durability)
				old := map[string]string{"a": "old", big: "old"}
				must(t, table.PutAll(old))
				before := read(t, path)
				empty := fill(t, disk)
				for range 3 {
					if err := row.change(table); !errors.Is(err, state.ErrHostDisk) || !errors.Is(err, syscall.ENOSPC) {
						t.Fatalf("error %v", err)
					}
					want(t, table, old)
					if after := read(t, path); !bytes.Equal(after, before) {
						t.Fatalf("%d bytes in the file, were %d", len(after), len(before))
					}
				}
				// What is known at a crash now.
				want(t, open(t, path, durability), old)
				empty()
				must(t, row.change(table))
				want(t, table, row.after)
				want(t, reopen(t, table, path, durability), row.after)
			})
		}
		t.Run("a change is saved also if the file cannot be made shorter", func(t *testing.T) {
			disk := smallDisk(t)
			path := longHistory(t, disk, historyAllowed+2)
			table := open(t, path, durability)
			empty := fill(t, disk)
			must(t, table.Put("a", "newer"))
			if got := beside(t, path); len(got) != 1 {
				t.Errorf("left behind: %v", got)
			}
			// The long file can be read, and is made shorter once there is room.
			table = reopen(t, table, path, durability)
			want(t, table, map[string]string{"a": "newer"})
			empty()
			must(t, table.Put("a", "newest"))
			if lines := bytes.Count(read(t, path), []byte("\n")); lines != 2 {
				t.Errorf("%d lines", lines)
			}
			want(t, reopen(t, table, path, durability), map[string]string{"a": "newest"})
		})
	})
}
