package driver_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// trash are the entries of the trash, by the directories that hold data.
func trash(t *testing.T, shared string) []string {
	t.Helper()
	entries, err := filepath.Glob(filepath.Join(shared, ".docker-volume-efs/trash/*/data"))
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func (h *testHost) remove(name string) {
	h.t.Helper()
	if err := h.Remove(h.t.Context(), name); err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.Get(h.t.Context(), name); err == nil {
		h.t.Errorf("%s is still known", name)
	}
}

// removeSoon removes a volume that another host has just unmounted: on a busy machine that host says so later
// than a removal waits for. That one waits is TestRemovalWaitsForAHostThatHasJustUnmounted's.
func (h *testHost) removeSoon(name string) {
	h.t.Helper()
	eventually(h.t, "it can be removed once it is used nowhere", func() bool { return h.Remove(h.t.Context(), name) == nil })
	h.remove(name)
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func TestRemove(t *testing.T) {
	t.Run("moves the data to the trash with its record", func(t *testing.T) {
		shared := t.TempDir()
		h := newHost(t, shared)
		h.create("data")
		h.mount("data", "1")
		h.write("data", "file", "rows")
		h.unmount("data", "1")
		h.remove("data")
		entries := trash(t, shared)
		if len(entries) != 1 || exists(t, filepath.Join(shared, "data")) {
			t.Fatalf("trash %v", entries)
		}
		got, err := os.ReadFile(filepath.Join(entries[0], "file"))
		if err != nil || string(got) != "rows" {
			t.Errorf("file in the trash: %q, %v", got, err)
		}
		if !exists(t, filepath.Join(filepath.Dir(entries[0]), "record.json")) {
			t.Error("no record in the trash")
		}
	})
	t.Run("keeps the data if told to", func(t *testing.T) {
		shared := t.TempDir()
		h := newHost(t, shared)
		h.create("data", "remove=keep")
		h.remove("data")
		if !exists(t, filepath.Join(shared, "data")) {
			t.Error("the directory is gone")
		}
	})
	t.Run("deletes the data if told to, in the background", func(t *testing.T) {
		shared, outside := t.TempDir(), t.TempDir()
		h := newHost(t, shared)
		h.create("data", "remove=delete")
		kept := filepath.Join(outside, "kept")
		if err := errors.Join(
			os.WriteFile(kept, nil, 0o600),
			os.MkdirAll(filepath.Join(shared, "data/a/b"), 0o755),
			os.Symlink(outside, filepath.Join(shared, "data/a/link")),
		); err != nil {
			t.Fatal(err)
		}
		h.remove("data")
		eventually(t, "nothing is left to delete", func() bool {
			left, err := os.ReadDir(filepath.Join(shared, ".docker-volume-efs/deleting"))
			return err == nil && len(left) == 0
		})
		if exists(t, filepath.Join(shared, "data")) || len(trash(t, shared)) > 0 || !exists(t, kept) {
			t.Error("the data is still there, or a link was followed")
		}
	})
	t.Run("never takes a directory that it did not make", func(t *testing.T) {
		shared := t.TempDir()
		if err := os.Mkdir(filepath.Join(shared, "old"), 0o755); err != nil {
			t.Fatal(err)
		}
		h := newHost(t, shared)
		h.create("data", "path=/old", "remove=delete")
		h.remove("data")
		if !exists(t, filepath.Join(shared, "old")) {
			t.Error("the adopted directory is gone")
		}
	})
	t.Run("of an unknown volume is no error", func(t *testing.T) {
		newHost(t, t.TempDir()).remove("never-was")
	})
	t.Run("is not blocked by counts that are left over", func(t *testing.T) {
		h := newHost(t, t.TempDir())
		h.create("data")
		h.mount("data", "leaked")
		h.remove("data")
		if h.mounted()["data"] {
			t.Error("the volume is still mounted")
		}
	})
	t.Run("refuses to take another volume's directory with it", func(t *testing.T) {
		h := newHost(t, t.TempDir())
		h.create("outer", "path=/a")
		h.create("inner", "path=/a/b")
		wantKind(t, h.Remove(t.Context(), "outer"), driver.Conflict, `"inner"`, "/a/b", "remove that one first")
		h.remove("inner")
		h.remove("outer")
	})
	t.Run("leaves the data to a second volume on the same directory", func(t *testing.T) {
		shared := t.TempDir()
		h := newHost(t, shared)
		h.create("one", "path=/same")
		h.create("two", "path=/same")
		h.remove("one")
		if !exists(t, filepath.Join(shared, "same")) {
			t.Error("the directory is gone")
		}
	})
	t.Run("lets the name be used again, for a new directory", func(t *testing.T) {
		shared := t.TempDir()
		a, b := newHost(t, shared), newHost(t, shared)
		a.create("data")
		b.mount("data", "1")
		b.write("data", "file", "old")
		b.unmount("data", "1")
		a.removeSoon("data")
		a.create("data")
		b.mount("data", "2")
		if exists(t, filepath.Join(b.point("data"), "file")) {
			t.Error("the other host still has the old directory")
		}
	})
}

func TestRemovalCutOffByACrash(t *testing.T) {
	shared := t.TempDir()
	h := newHost(t, shared)
	h.create("data")
	beginRemoval(t, shared)
	other := newHost(t, shared)
	err := other.Mount(t.Context(), "data", "1", func(string) error { return nil })
	wantKind(t, err, driver.Failed, "is being removed", "docker volume rm again")
	other.remove("data")
	if len(trash(t, shared)) != 1 {
		t.Error("the data is not in the trash")
	}
}

// halfRemoved is the trash entry of a removal of "data" that was cut off.
const halfRemoved = "20261121T000000Z-half-data"

// beginRemoval is what a host has done of a removal of "data" when it is cut off.
func beginRemoval(t *testing.T, shared string) {
	t.Helper()
	record := filepath.Join(shared, ".docker-volume-efs/volumes/data.json")
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	half := strings.Replace(string(text), `"state": "ready"`,
		fmt.Sprintf(`"state": "removing", "trash": %q, "directory": %d`, halfRemoved, inode(t, filepath.Join(shared, "data"))), 1)
	if err := os.WriteFile(record, []byte(half), 0o600); err != nil {
		t.Fatal(err)
	}
}

// judge is what a host has decided of that removal before it was cut off.
func judge(t *testing.T, shared, verdict string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(shared, ".docker-volume-efs/verdicts", halfRemoved), []byte(verdict), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Docker asks a host to remove what none of its containers uses; but a Create finishes other hosts' removals.
func TestCreateRemovesNoVolumeThatItsOwnContainersUse(t *testing.T) {
	shared := t.TempDir()
	h := newHost(t, shared)
	h.create("data")
	h.mount("data", "1")
	h.write("data", "file", "rows")
	beginRemoval(t, shared)
	h.create("data")
	h.wantFile("data", "file", "rows")
	if got := trash(t, shared); len(got) > 0 {
		t.Errorf("trash %v", got)
	}
	h.unmount("data", "1")
	h.mount("data", "2")
	h.wantFile("data", "file", "rows")
	h.unmount("data", "2")
}

// A removal that Docker gave up while the server was silent goes on when that answers: not under a container that
// was started meanwhile.
func TestRemovalLeftBehindLeavesWhatIsMountedMeanwhile(t *testing.T) {
	shared := t.TempDir()
	h := newHost(t, shared)
	h.create("data")
	h.mount("data", "1")
	h.write("data", "file", "rows")
	if err := h.RemovalLeftBehind(t.Context(), "data"); err == nil || !strings.Contains(err.Error(), "is being mounted on this host") {
		t.Errorf("the removal says %v", err)
	}
	h.wantFile("data", "file", "rows")
	if got := trash(t, shared); len(got) > 0 {
		t.Errorf("trash %v", got)
	}
	h.unmount("data", "1")
	h.remove("data")
}

// TestHostsAtOneRemovalAgree has one host begin a removal and decide how it ends, and another one, which sees
// the opposite, come upon it.
func TestHostsAtOneRemovalAgree(t *testing.T) {
	begun := func(t *testing.T, verdict string) (user, other *testHost, shared string) {
		shared = t.TempDir()
		user, other = newHost(t, shared), newHost(t, shared)
		user.create("data")
		user.mount("data", "1")
		user.write("data", "file", "rows")
		if verdict == "stays" {
			user.unmount("data", "1")
			eventually(t, "nobody is told of a use", func() bool {
				entries, err := filepath.Glob(filepath.Join(shared, ".docker-volume-efs/hosts/*.json"))
				return err == nil && len(entries) == 0
			})
		}
		beginRemoval(t, shared)
		judge(t, shared, verdict)
		return user, other, shared
	}
	t.Run("a Create leaves a volume that was to stay", func(t *testing.T) {
		user, other, shared := begun(t, "stays")
		other.create("data")
		if got := trash(t, shared); len(got) > 0 {
			t.Errorf("trash %v", got)
		}
		user.mount("data", "2")
		user.wantFile("data", "file", "rows")
		user.unmount("data", "2")
	})
	t.Run("a Remove asks anew", func(t *testing.T) {
		_, other, shared := begun(t, "stays")
		other.remove("data")
		if got := trash(t, shared); len(got) != 1 || strings.Contains(got[0], halfRemoved) {
			t.Errorf("trash %v", got)
		}
	})
	t.Run("a Create finishes one that was to go, also when it sees a user", func(t *testing.T) {
		user, other, shared := begun(t, "goes")
		other.create("data")
		if got := trash(t, shared); len(got) != 1 || !exists(t, filepath.Join(got[0], "file")) {
			t.Errorf("trash %v", got)
		}
		user.unmount("data", "1")
	})
}

// A host that was cut off goes on with what it knew of the volume.
func TestRemovalLeftBehindChangesNoNewVolume(t *testing.T) {
	for _, row := range []struct {
		name, verdict string
	}{
		{"when it was decided", ""},
		{"when nobody remembers what was decided", "forgotten"},
	} {
		t.Run(row.name, func(t *testing.T) {
			shared := t.TempDir()
			a, b := newHost(t, shared), newHost(t, shared)
			a.create("data")
			beginRemoval(t, shared)
			late := b.LateRemoval(t.Context(), "data")
			a.remove("data")
			if row.verdict == "forgotten" {
				if err := os.Remove(filepath.Join(shared, ".docker-volume-efs/verdicts", halfRemoved)); err != nil {
					t.Fatal(err)
				}
			}
			a.create("data")
			a.mount("data", "1")
			a.write("data", "file", "new")
			record := filepath.Join(shared, ".docker-volume-efs/volumes/data.json")
			before, err := os.ReadFile(record)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("the late removal says: %v", late())
			if after, err := os.ReadFile(record); err != nil || string(after) != string(before) {
				t.Errorf("%v: the record was\n%s\nand is\n%s", err, before, after)
			}
			a.wantFile("data", "file", "new")
			a.unmount("data", "1")
		})
	}
}

// Another host could not move the directory, and the volume is ready again.
func TestRemovalLeftBehindLeavesAVolumeThatStayed(t *testing.T) {
	shared := t.TempDir()
	a, b := newHost(t, shared), newHost(t, shared)
	a.create("data")
	record := filepath.Join(shared, ".docker-volume-efs/volumes/data.json")
	ready, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	beginRemoval(t, shared)
	late := b.LateRemoval(t.Context(), "data")
	judge(t, shared, "goes")
	if err := os.WriteFile(record, ready, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := late(); err == nil || !strings.Contains(err.Error(), "had it stay") {
		t.Errorf("the late removal says %v", err)
	}
	if !exists(t, filepath.Join(shared, "data")) || len(trash(t, shared)) > 0 {
		t.Error("the directory is gone")
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	id, err := tree.IdentityOf(path)
	if err != nil {
		t.Fatal(err)
	}
	return id.Inode
}

func TestRemovalThatAnotherHostHasFinishedTakesNothingElse(t *testing.T) {
	shared := t.TempDir()
	a := newHost(t, shared)
	a.create("data", "remove=delete")
	record := filepath.Join(shared, ".docker-volume-efs/volumes/data.json")
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	// A stalled before it announced the removal of a directory; the volume that is there now is
	// another, and A has written over its record.
	half := strings.Replace(string(text), `"state": "ready"`, `"state": "removing", "trash": "20261121T000000Z-half-data", "directory": 1`, 1)
	if err := errors.Join(
		os.WriteFile(record, []byte(half), 0o600),
		os.WriteFile(filepath.Join(shared, "data/new"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	wantKind(t, a.Remove(t.Context(), "data"), driver.Conflict, "has made it meanwhile", "run docker volume rm again")
	if !exists(t, filepath.Join(shared, "data/new")) {
		t.Error("the new directory is gone")
	}
	a.mount("data", "1")
	a.wantFile("data", "new", "")
	a.unmount("data", "1")
}

// docs/efs.md has it as the way to protect a volume that exists.
func TestVolumeIsMadeAnewOnItsDataWhileAnotherHoldsTheDirectory(t *testing.T) {
	h := newHost(t, t.TempDir())
	h.create("data")
	h.mount("data", "1")
	h.write("data", "file", "content")
	h.unmount("data", "1")
	h.create("hold", "path=/data")
	h.remove("data")
	h.create("data", "readonly=true")
	h.remove("hold")
	h.mount("data", "2")
	h.wantFile("data", "file", "content")
	h.unmount("data", "2")
	if got := h.status("data")["options"]; !strings.Contains(fmt.Sprint(got), "readonly") {
		t.Errorf("its options are %v", got)
	}
}

// TestRemoveOnOneHostAndCreateOnAnotherAtTheSameMoment ends with a volume or without
// one, never with half of one.
func TestRemoveOnOneHostAndCreateOnAnotherAtTheSameMoment(t *testing.T) {
	shared := t.TempDir()
	a, b := newHost(t, shared), newHost(t, shared)
	for i := range 500 {
		name := fmt.Sprint("v", i)
		a.create(name)
		removed := make(chan error)
		go func() { removed <- a.Remove(t.Context(), name) }()
		time.Sleep(time.Duration(rand.IntN(600)) * time.Microsecond)
		if err := errors.Join(b.Create(t.Context(), name, nil), <-removed); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		record := exists(t, filepath.Join(shared, ".docker-volume-efs/volumes", name+".json"))
		if dir := exists(t, filepath.Join(shared, name)); record != dir {
			t.Errorf("%s has a record: %v, a directory: %v", name, record, dir)
		}
	}
}

func TestRemovalCutOffBeforeTheRecordWentIsRepeatable(t *testing.T) {
	shared := t.TempDir()
	h := newHost(t, shared)
	h.create("data", "remove=delete")
	beginRemoval(t, shared)
	condemned := filepath.Join(shared, ".docker-volume-efs/deleting", halfRemoved)
	if err := errors.Join(
		os.Mkdir(condemned, 0o700),
		os.Rename(filepath.Join(shared, "data"), filepath.Join(condemned, "data")),
		os.WriteFile(filepath.Join(condemned, "record.json"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	h.remove("data")
	h.create("data")
}

func TestVolumeMadeAnewElsewhere(t *testing.T) {
	shared, elsewhere := t.TempDir(), t.TempDir()
	a, b := newHost(t, shared), newHost(t, shared)
	a.create("data", "remove=keep")
	a.mount("data", "1")
	a.write("data", "file", "old")
	a.unmount("data", "1")
	b.removeSoon("data")
	b.create("data", "filesystem=dir:"+elsewhere, "remove=delete")
	b.mount("data", "1")
	b.write("data", "file", "new")

	t.Run("is mounted from where it is now", func(t *testing.T) {
		a.mount("data", "2")
		a.wantFile("data", "file", "new")
		a.unmount("data", "2")
	})
	t.Run("is removed from where it is now", func(t *testing.T) {
		b.unmount("data", "1")
		a.removeSoon("data")
		if !exists(t, filepath.Join(shared, "data/file")) {
			t.Error("the kept directory on the old file system is gone")
		}
	})
}

func TestNeighboursThatThisHostHasNotHeardOf(t *testing.T) {
	t.Run("inside the directory keep it from being removed", func(t *testing.T) {
		shared := t.TempDir()
		a, b := newHost(t, shared), newHost(t, shared)
		a.create("apps", "remove=delete")
		b.create("inner", "path=/apps/inner")
		wantKind(t, a.Remove(t.Context(), "apps"), driver.Conflict, `"inner"`)
		a.mount("apps", "1") // the refused removal changed nothing
	})
	t.Run("on the same directory keep the data", func(t *testing.T) {
		shared := t.TempDir()
		a, b := newHost(t, shared), newHost(t, shared)
		a.create("one", "path=/same", "remove=delete")
		b.create("same", "remove=delete")
		a.remove("one")
		if !exists(t, filepath.Join(shared, "same")) {
			t.Error("the directory is gone")
		}
	})
	t.Run("that are being removed keep a volume from being made inside", func(t *testing.T) {
		shared := t.TempDir()
		a, b := newHost(t, shared), newHost(t, shared)
		a.create("apps")
		record := filepath.Join(shared, ".docker-volume-efs/volumes/apps.json")
		text, err := os.ReadFile(record)
		if err != nil {
			t.Fatal(err)
		}
		half := strings.Replace(string(text), `"ready"`, `"removing"`, 1)
		if err := os.WriteFile(record, []byte(half), 0o600); err != nil {
			t.Fatal(err)
		}
		wantKind(t, b.Create(t.Context(), "inner", opts("path=/apps/inner")), driver.Conflict, `"apps"`, "being removed")
		if exists(t, filepath.Join(shared, ".docker-volume-efs/volumes/inner.json")) {
			t.Error("the refused volume has a record")
		}
	})
}

// What the kernel remembers of a directory can lack a name that came within the same tick of the server's clock.
func TestRemovalHasTheServersNames(t *testing.T) {
	shared := t.TempDir()
	h := newHost(t, shared)
	h.create("data")
	long := time.Now().Add(-time.Hour)
	for _, dir := range []string{"hosts", "paths"} {
		if err := os.Chtimes(filepath.Join(shared, ".docker-volume-efs", dir), long, long); err != nil {
			t.Fatal(err)
		}
	}
	h.remove("data")
	for _, dir := range []string{"hosts", "paths"} {
		info, err := os.Stat(filepath.Join(shared, ".docker-volume-efs", dir))
		if err != nil {
			t.Fatal(err)
		}
		if info.ModTime().Equal(long) {
			t.Errorf("%s shows no change that would have its names read anew", dir)
		}
	}
}

func TestDamagedRecord(t *testing.T) {
	damage := func(t *testing.T, shared, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(shared, ".docker-volume-efs/volumes/data.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("is shown, and mounting says what to do", func(t *testing.T) {
		shared := t.TempDir()
		newHost(t, shared).create("data")
		damage(t, shared, "{ torn")
		h := newHost(t, shared)
		if trouble, _ := h.status("data")["trouble"].([]string); len(trouble) == 0 || !strings.Contains(trouble[0], "damaged") {
			t.Errorf("trouble: %v", trouble)
		}
		err := h.Mount(t.Context(), "data", "1", func(string) error { return nil })
		wantKind(t, err, driver.Failed, "damaged", "create the volume again")
	})
	t.Run("is made again by Create, and the data is still there", func(t *testing.T) {
		shared := t.TempDir()
		h := newHost(t, shared)
		h.create("data")
		h.mount("data", "1")
		h.write("data", "file", "rows")
		h.unmount("data", "1")
		damage(t, shared, "")
		h.create("data")
		h.mount("data", "2")
		h.wantFile("data", "file", "rows")
	})
	t.Run("of a volume in use is not made again by Create, on whichever host", func(t *testing.T) {
		shared := t.TempDir()
		a, b := newHost(t, shared, names()), newHost(t, shared)
		a.create("data")
		a.mount("data", "1")
		damage(t, shared, "")
		wantKind(t, b.Create(t.Context(), "data", nil), driver.Conflict, "damaged", "host web-1 uses it")
		wantKind(t, a.Create(t.Context(), "data", nil), driver.Conflict, "damaged", "stop its containers on this host first")
		a.unmount("data", "1")
		eventually(t, "it is made again once it is used nowhere", func() bool { return b.Create(t.Context(), "data", nil) == nil })
	})
	t.Run("of a newer version is left alone", func(t *testing.T) {
		shared := t.TempDir()
		h := newHost(t, shared)
		h.create("data")
		damage(t, shared, `{"version": 4}`)
		for what, err := range map[string]error{
			"create": h.Create(t.Context(), "data", nil),
			"mount":  h.Mount(t.Context(), "data", "1", func(string) error { return nil }),
			"remove": h.Remove(t.Context(), "data"),
		} {
			if err == nil || !strings.Contains(err.Error(), "upgrade the plugin") {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// rewriteState replaces a table of the stopped host by one volume's line.
func (h *testHost) rewriteState(table, value string) {
	h.t.Helper()
	path := filepath.Join(h.options.Data, "state", table)
	if err := os.WriteFile(path, stateOf("data", value), 0o600); err != nil {
		h.t.Fatal(err)
	}
}
