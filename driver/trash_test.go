package driver_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

func (h *testHost) trashed() []driver.Trashed {
	h.t.Helper()
	all, err := h.Trash(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

// ageInTrash puts an entry into the trash that came there some time ago by the server's clock.
func ageInTrash(t *testing.T, shared, id string, age time.Duration) string {
	t.Helper()
	dir := filepath.Join(shared, ".docker-volume-efs/trash", id)
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	came := time.Now().Add(-age)
	if err := os.Chtimes(dir, came, came); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestTrash(t *testing.T) {
	t.Run("is brought back on another host, with data and options", func(t *testing.T) {
		shared := t.TempDir()
		a, b := newHost(t, shared), newHost(t, shared)
		a.create("data", "mode=0750", "remove=trash")
		a.mount("data", "1")
		a.write("data", "rows", "three")
		a.unmount("data", "1")
		a.remove("data")
		all := b.trashed()
		if len(all) != 1 || all[0].Volume != "data" || all[0].Path != "/data" || time.Since(all[0].Removed) > time.Hour || all[0].Trouble != "" {
			t.Fatalf("the trash has %+v", all)
		}
		if name, err := b.Restore(t.Context(), "data", ""); err != nil || name != "data" {
			t.Fatal(name, err)
		}
		b.mount("data", "2")
		b.wantFile("data", "rows", "three")
		if mode := b.status("data")["options"].(map[string]string)["mode"]; mode != "0750" {
			t.Errorf("mode %q", mode)
		}
		if len(b.trashed()) != 0 {
			t.Error("it is still in the trash")
		}
	})
	t.Run("has the latest of several of a name first", func(t *testing.T) {
		h := newHost(t, t.TempDir())
		for _, content := range []string{"old", "new"} {
			h.create("data")
			h.mount("data", "1")
			h.write("data", "file", content)
			h.unmount("data", "1")
			h.remove("data")
			time.Sleep(1100 * time.Millisecond) // entries are told apart by the second
		}
		if _, err := h.Restore(t.Context(), "data", "copy"); err != nil {
			t.Fatal(err)
		}
		h.mount("copy", "1")
		h.wantFile("copy", "file", "new")
		if _, err := h.Restore(t.Context(), h.trashed()[0].Entry, ""); err != nil {
			t.Fatal(err)
		}
		h.mount("data", "1")
		h.wantFile("data", "file", "old")
	})
	t.Run("says what is in the way", func(t *testing.T) {
		h := newHost(t, t.TempDir())
		h.create("data")
		h.remove("data")
		h.create("data")
		_, err := h.Restore(t.Context(), "data", "")
		wantKind(t, err, driver.Conflict, `there is a volume "data"`, "--as NAME")
		_, err = h.Restore(t.Context(), "nothing", "")
		wantKind(t, err, driver.Failed, "no such entry", "trash list")
		_, err = h.Restore(t.Context(), "data", "../up")
		wantKind(t, err, driver.Invalid)
	})
	t.Run("of another file system goes back there", func(t *testing.T) {
		shared, elsewhere := t.TempDir(), t.TempDir()
		a, b := newHost(t, shared), newHost(t, shared)
		a.create("data", "filesystem=dir:"+elsewhere)
		a.create("stays", "filesystem=dir:"+elsewhere)
		a.remove("data")
		if _, err := a.Restore(t.Context(), "data", ""); err != nil {
			t.Fatal(err)
		}
		b.mount("data", "1")
		if !exists(t, filepath.Join(elsewhere, "data")) {
			t.Error("it is not where it was")
		}
	})
	t.Run("is emptied by the setting", func(t *testing.T) {
		shared := t.TempDir()
		h := newHost(t, shared, func(o *driver.Options) { o.Check, o.TrashKeep = 10*time.Millisecond, time.Hour })
		dir := filepath.Join(shared, ".docker-volume-efs/trash")
		h.create("new")
		h.remove("new")
		h.stop()
		ageInTrash(t, shared, "20200101T000000Z-ABCDEF-old", 2*time.Hour)
		if err := os.Mkdir(filepath.Join(dir, "by-hand"), 0o700); err != nil {
			t.Fatal(err)
		}
		h.start()
		eventually(t, "only the old one is gone", func() bool { return len(trash(t, shared)) == 1 })
		time.Sleep(50 * time.Millisecond)
		if left := trash(t, shared); len(left) != 1 || !exists(t, filepath.Join(dir, "by-hand")) {
			t.Errorf("left are %v", left)
		}
	})
	t.Run("is emptied by an age that both the remover's clock and the server's show", func(t *testing.T) {
		shared := t.TempDir()
		h := newHost(t, shared)
		h.create("data") // makes the catalogue
		now := time.Now().UTC()
		stays := []string{
			ageInTrash(t, shared, "19700101T000005Z-ABCDEF-by-a-clock-at-boot", 0),
			ageInTrash(t, shared, now.Add(-29*24*time.Hour).Format("20060102T150405Z")+"-ABCDEF-young", 29*24*time.Hour),
			ageInTrash(t, shared, now.Format("20060102T150405Z")+"-ABCDEF-copied-with-times", 90*24*time.Hour),
			ageInTrash(t, shared, "20990101T000000Z-ABCDEF-by-a-clock-ahead", 90*24*time.Hour),
		}
		ageInTrash(t, shared, "20200101T000000Z-ABCDEF-old", 31*24*time.Hour)
		if n, err := h.EmptyTrash(t.Context(), nil, 30*24*time.Hour); err != nil || n != 1 {
			t.Errorf("%d deleted, %v", n, err)
		}
		for _, id := range stays {
			if !exists(t, filepath.Join(shared, ".docker-volume-efs/trash", id)) {
				t.Errorf("%s is gone", id)
			}
		}
		if n, err := h.EmptyTrash(t.Context(), nil, 0); err != nil || n != len(stays) {
			t.Errorf("all are %d, %v", n, err)
		}
	})
	t.Run("is emptied by entry, by age, or all", func(t *testing.T) {
		h := newHost(t, t.TempDir())
		for _, name := range []string{"a", "b", "c"} {
			h.create(name)
			h.remove(name)
		}
		empty := func(want int, age time.Duration, entries ...string) {
			t.Helper()
			if n, err := h.EmptyTrash(t.Context(), entries, age); err != nil || n != want {
				t.Errorf("%d deleted, %v, want %d", n, err, want)
			}
		}
		empty(0, time.Hour)
		empty(1, 0, h.trashed()[0].Entry)
		if _, err := h.EmptyTrash(t.Context(), []string{"no-such-entry"}, 0); err == nil {
			t.Error("what is not there was deleted")
		}
		if err := os.Mkdir(filepath.Join(h.options.FileSystem.Dir, ".docker-volume-efs/trash/by-hand"), 0o700); err != nil {
			t.Fatal(err)
		}
		empty(2, 0) // all, but for what no removal has put there
		empty(1, 0, "by-hand")
		if len(h.trashed()) != 0 {
			t.Error("something is left")
		}
		eventually(t, "it is gone from the file system", func() bool {
			left, err := os.ReadDir(filepath.Join(h.options.FileSystem.Dir, ".docker-volume-efs/deleting"))
			return err == nil && len(left) == 0
		})
	})
}

// removedElsewhere is a host that has removed a volume on another file system than home.
func removedElsewhere(t *testing.T, home string) (h *testHost, elsewhere string) {
	t.Helper()
	h, elsewhere = newHost(t, home), t.TempDir()
	for _, name := range []string{"data", "stays"} {
		h.create(name, "filesystem=dir:"+elsewhere)
	}
	h.mount("data", "1")
	h.write("data", "rows", "three")
	h.unmount("data", "1")
	h.remove("data")
	return h, elsewhere
}

// wantInTrash fails unless the removed volume is where it was, whole, and nowhere else.
func wantInTrash(t *testing.T, elsewhere string) {
	t.Helper()
	if len(trash(t, elsewhere)) != 1 || exists(t, filepath.Join(elsewhere, "data")) ||
		exists(t, filepath.Join(elsewhere, ".docker-volume-efs/volumes/data.json")) {
		t.Errorf("the trash has %v, or something was brought back", trash(t, elsewhere))
	}
}

func TestRestoreOnAnotherFileSystemThanHome(t *testing.T) {
	t.Run("touches nothing if the name is taken at home", func(t *testing.T) {
		h, elsewhere := removedElsewhere(t, t.TempDir())
		h.create("data")
		_, err := h.Restore(t.Context(), "data", "")
		wantKind(t, err, driver.Conflict, `there is a volume "data"`, "--as NAME")
		wantInTrash(t, elsewhere)
		if name, err := h.Restore(t.Context(), "data", "old"); err != nil || name != "old" {
			t.Fatal(name, err)
		}
		other := newHost(t, h.options.FileSystem.Dir)
		other.mount("old", "1")
		other.wantFile("old", "rows", "three")
	})
	// Home may be looked at and not written, as one that dies in between.
	cutOff := func(t *testing.T) (h *testHost, elsewhere string) {
		t.Helper()
		home := t.TempDir()
		if err := syscall.Mount("test", home, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(home, syscall.MNT_DETACH) })
		h, elsewhere = removedElsewhere(t, home)
		if err := syscall.Mount("", home, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "size=1m"); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Restore(t.Context(), "data", ""); err == nil || !strings.Contains(err.Error(), "read-only") {
			t.Fatalf("home cannot be written, and the volume was restored: %v", err)
		}
		if err := syscall.Mount("", home, "", syscall.MS_REMOUNT, "size=1m"); err != nil {
			t.Fatal(err)
		}
		return h, elsewhere
	}
	t.Run("is finished by the second call if home was lost in between", func(t *testing.T) {
		h, _ := cutOff(t)
		if name, err := h.Restore(t.Context(), "data", ""); err != nil || name != "data" {
			t.Fatal(name, err)
		}
		if len(h.trashed()) != 0 {
			t.Error("it is still in the trash")
		}
		other := newHost(t, h.options.FileSystem.Dir)
		other.mount("data", "1")
		other.wantFile("data", "rows", "three")
	})
	t.Run("is taken back by the second call if the name was taken in between", func(t *testing.T) {
		h, elsewhere := cutOff(t)
		newHost(t, h.options.FileSystem.Dir).create("data")
		_, err := h.Restore(t.Context(), "data", "")
		wantKind(t, err, driver.Conflict, `there is a volume "data"`, "--as NAME")
		wantInTrash(t, elsewhere)
		if _, err := h.Restore(t.Context(), h.trashed()[0].Entry, "old"); err != nil {
			t.Fatal(err)
		}
		h.mount("old", "1")
		h.wantFile("old", "rows", "three")
	})
}

// deadTrash is a host with a removed volume at home and one on a file system that does not answer.
func deadTrash(t *testing.T, test func(t *testing.T, h *testHost, dead string)) {
	t.Helper()
	bubble(t, func(t *testing.T, k *faults, h *testHost) {
		dead := t.TempDir()
		for _, name := range []string{"other", "stays"} {
			h.create(name, "filesystem=dir:"+dead)
		}
		h.create("data")
		h.remove("data")
		h.remove("other")
		h.stop()
		k.hang(t, "open", dead)
		h.start()
		test(t, h, dead)
	})
}

func TestTrashOfADeadFileSystem(t *testing.T) {
	says := func(t *testing.T, err error, dead string) {
		t.Helper()
		if err == nil || strings.Count(err.Error(), "the trash of dir:"+dead) != 1 || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("it says %v", err)
		}
	}
	t.Run("is missing in the list, which says so", func(t *testing.T) {
		deadTrash(t, func(t *testing.T, h *testHost, dead string) {
			all, err := h.Trash(t.Context())
			if len(all) != 1 || all[0].Volume != "data" {
				t.Errorf("the list has %+v", all)
			}
			says(t, err, dead)
		})
	})
	t.Run("may have a later volume of the name", func(t *testing.T) {
		deadTrash(t, func(t *testing.T, h *testHost, dead string) {
			_, err := h.Restore(t.Context(), "data", "")
			wantKind(t, err, driver.Unavailable, "give an entry's name")
			says(t, err, dead)
		})
	})
	t.Run("is not waited for if an entry is named", func(t *testing.T) {
		deadTrash(t, func(t *testing.T, h *testHost, _ string) {
			all, _ := h.Trash(t.Context())
			if took := took(func() {
				if _, err := h.Restore(t.Context(), all[0].Entry, ""); err != nil {
					t.Error(err)
				}
			}); took != 0 {
				t.Errorf("it took %v", took)
			}
		})
	})
	t.Run("may have what is found nowhere else", func(t *testing.T) {
		deadTrash(t, func(t *testing.T, h *testHost, dead string) {
			_, err := h.Restore(t.Context(), "other", "")
			wantKind(t, err, driver.Unavailable)
			says(t, err, dead)
			n, err := h.EmptyTrash(t.Context(), []string{"20261121T120000Z-ABCDEF-other"}, 0)
			if n != 0 {
				t.Errorf("%d deleted", n)
			}
			says(t, err, dead)
		})
	})
	t.Run("stays when the others are emptied", func(t *testing.T) {
		deadTrash(t, func(t *testing.T, h *testHost, dead string) {
			n, err := h.EmptyTrash(t.Context(), nil, 0)
			if n != 1 || len(trash(t, h.options.FileSystem.Dir)) != 0 || len(trash(t, dead)) != 1 {
				t.Errorf("%d deleted", n)
			}
			says(t, err, dead)
		})
	})
}

// questions is a context that tells when a question to a file system begins: each has a time limit of its own, which
// asks for that of the call.
type questions struct {
	context.Context
	begin func()
}

func (q questions) Deadline() (time.Time, bool) {
	q.begin()
	return q.Context.Deadline()
}

// fillTrash makes entries as the removal of so many volumes leaves them.
func fillTrash(t *testing.T, shared string, entries int) {
	t.Helper()
	record := `{"version":1,"name":"many","state":"removing","path":"/many","options":{"access":"shared","remove":"trash","via":"auto"},` +
		`"made":true,"created":"2026-01-01T00:00:00Z","created_by":"other"}`
	for i := range entries {
		dir := filepath.Join(shared, ".docker-volume-efs/trash", fmt.Sprintf("20260101T%06dZ-ABCDEF-many", i%60+i/60*100))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "record.json"), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A question that takes longer than an answer may is given up, and the file system counts as dead: none may grow with the
// trash.
func TestLargeTrash(t *testing.T) {
	const entries = 2000
	large := func(t *testing.T, change ...func(*driver.Options)) (h *testHost, left func() int) {
		t.Helper()
		h = newHost(t, t.TempDir(), change...)
		h.create("data") // makes the catalogue
		fillTrash(t, h.options.FileSystem.Dir, entries)
		return h, func() int {
			all, err := os.ReadDir(filepath.Join(h.options.FileSystem.Dir, ".docker-volume-efs/trash"))
			if err != nil {
				t.Fatal(err)
			}
			return len(all)
		}
	}
	t.Run("is listed some entries at a time, the latest first", func(t *testing.T) {
		h, _ := large(t)
		if n := len(h.trashed()); n != entries {
			t.Errorf("%d are listed", n)
		}
		ctx, giveUp := context.WithCancel(t.Context())
		defer giveUp()
		begun := 0
		all, err := h.Trash(questions{ctx, func() {
			if begun++; begun == 7 { // twice in each: one for the list, two for entries
				giveUp()
			}
		}})
		if err == nil || len(all) != 2*driver.TrashAtOnce || all[0].Entry != "20260101T003319Z-ABCDEF-many" {
			t.Errorf("after three questions %d are listed, %v", len(all), err)
		}
	})
	t.Run("holds up nothing when it is emptied by the setting", func(t *testing.T) {
		h, left := large(t, func(o *driver.Options) { o.TrashKeep, o.Check = time.Hour, time.Hour })
		ids, err := os.ReadDir(filepath.Join(h.options.FileSystem.Dir, ".docker-volume-efs/trash"))
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			ageInTrash(t, h.options.FileSystem.Dir, id.Name(), 2*time.Hour)
		}
		h.CheckTrash(t.Context())
		if left() == 0 {
			t.Error("it came back when none was left")
		}
		eventually(t, "all are gone", func() bool { return left() == 0 })
	})
	t.Run("has a volume by its name", func(t *testing.T) {
		h, _ := large(t)
		h.remove("data")
		begun := 0
		name, err := h.Restore(questions{t.Context(), func() { begun++ }}, "data", "")
		if err != nil || name != "data" || begun > 20 {
			t.Errorf("%q, %v, after %d questions", name, err, begun/2)
		}
	})
	t.Run("is emptied some entries at a time", func(t *testing.T) {
		h, left := large(t)
		before, most := entries, 0
		n, err := h.EmptyTrash(questions{t.Context(), func() {
			now := left()
			before, most = now, max(most, before-now)
		}}, nil, 0)
		if err != nil || n != entries || left() != 0 || most != driver.TrashAtOnce {
			t.Errorf("%d are deleted, %d of them at once, %v", n, most, err)
		}
	})
	t.Run("stays half emptied if the call is given up", func(t *testing.T) {
		h, left := large(t)
		ctx, giveUp := context.WithCancel(t.Context())
		defer giveUp()
		begun := 0
		n, err := h.EmptyTrash(questions{ctx, func() {
			if begun++; begun == 7 {
				giveUp()
			}
		}}, nil, 0)
		if err == nil || n != 2*driver.TrashAtOnce || left() != entries-n {
			t.Errorf("%d are deleted, %v, %d are left", n, err, left())
		}
	})
}

// A large tree is deleted at a rate that leaves the file system to others, and the deletion goes
// on where a restart has cut it off.
func TestDeletionIsLimitedAndOutlivesRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := t.TempDir()
		k := func(o *driver.Options) { o.Kernel = &faults{} }
		h := newHost(t, shared, k)
		h.create("large", "remove=delete")
		const files = 3000
		for i := range files {
			if err := os.WriteFile(filepath.Join(shared, "large", strconv.Itoa(i)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		left := func() int {
			all, err := filepath.Glob(filepath.Join(shared, ".docker-volume-efs/deleting/*/data*/*"))
			if err != nil {
				t.Fatal(err)
			}
			return len(all)
		}
		h.remove("large")
		synctest.Wait()
		if n := left(); n < 1500 || n > 2100 {
			t.Errorf("at once %d files are left of %d", n, files)
		}
		time.Sleep(2 * time.Second)
		if n := left(); n < 1200 || n > 1700 {
			t.Errorf("after 2 s %d files are left", n)
		}
		h.create("other") // nobody waits for it
		h.restart()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := left(); n != 0 {
			t.Errorf("after a restart and a minute %d files are left", n)
		}
	})
}
