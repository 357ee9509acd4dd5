package driver_test

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
)

// stateOf is a state file with one entry.
func stateOf(key, value string) []byte {
	text := fmt.Sprintf(`{"key":%q,"value":%s}`, key, value)
	return fmt.Appendf(nil, "docker-volume-efs state 1\n%08x %s\n", crc32.ChecksumIEEE([]byte(text)), text)
}

func TestVolumesAreKnownWithoutTheFileSystem(t *testing.T) {
	shared := filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, shared)
	h.create("data", "mode=0700")
	h.stop()
	if err := os.Rename(shared, shared+"-away"); err != nil {
		t.Fatal(err)
	}
	h.start()
	if got := h.status("data")["path"]; got != "/data" {
		t.Errorf("path %v", got)
	}
	if volumes, _ := h.List(t.Context()); len(volumes) != 1 {
		t.Errorf("volumes %v", volumes)
	}
	err := h.Mount(t.Context(), "data", "1", func(string) error { return nil })
	wantKind(t, err, driver.Failed, "does not exist on this host")
	eventually(t, "Status tells the trouble", func() bool { return h.status("data")["trouble"] != nil })
	if err := os.Rename(shared+"-away", shared); err != nil {
		t.Fatal(err)
	}
	h.mount("data", "1")
}

func TestDamagedStateIsSetAside(t *testing.T) {
	for _, table := range []string{"volumes", "mounts"} {
		t.Run(table, func(t *testing.T) {
			h := newHost(t, t.TempDir())
			h.create("data")
			h.stop()
			path := filepath.Join(h.options.Data, "state", table)
			if err := os.WriteFile(path, []byte("garbage\nmore garbage\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			h.start()
			h.mount("data", "1")
			if aside, _ := filepath.Glob(path + ".damaged-*"); len(aside) != 1 {
				t.Errorf("set aside: %v", aside)
			}
		})
	}
}

func TestWrongSettingsKeepVolumesKnown(t *testing.T) {
	h := newHost(t, t.TempDir())
	h.create("data")
	h.stop()
	h.options.Misconfigured = errors.New("setting EFS_VIA is wrong")
	h.options.FileSystem = filesystem.Spec{}
	h.start()
	if trouble := h.status("data")["trouble"].([]string); !strings.Contains(trouble[0], "EFS_VIA") {
		t.Errorf("trouble %v", trouble)
	}
	for what, err := range map[string]error{
		"create": h.Create(t.Context(), "new", nil),
		"mount":  h.Mount(t.Context(), "data", "1", func(string) error { return nil }),
		"remove": h.Remove(t.Context(), "data"),
	} {
		if err == nil || !strings.Contains(err.Error(), "EFS_VIA") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestVolumesOfAnEarlierHomeStayKnown(t *testing.T) {
	h := newHost(t, t.TempDir())
	h.create("data")
	h.stop()
	h.options.FileSystem.Dir = t.TempDir()
	h.start()
	h.create("new")
	h.List(t.Context())
	h.mount("data", "1")
	h.mount("new", "1")
}

func TestVolumeElsewhereIsFoundThroughThePointerAtHome(t *testing.T) {
	shared, elsewhere := t.TempDir(), t.TempDir()
	a, b := newHost(t, shared), newHost(t, shared)
	a.create("data", "filesystem=dir:"+elsewhere)
	a.mount("data", "1")
	a.write("data", "file", "rows")
	b.mount("data", "2")
	b.wantFile("data", "file", "rows")
	wantKind(t, b.Create(t.Context(), "data", opts("filesystem=dir:"+shared)), driver.Conflict, "filesystem is")
	b.unmount("data", "2")
	a.removeSoon("data")
	if exists(t, filepath.Join(shared, ".docker-volume-efs/volumes/data.json")) {
		t.Error("the pointer is still there")
	}
	if len(trash(t, elsewhere)) != 1 {
		t.Error("the data is not in the trash of its own file system")
	}
}

func TestAnotherAddressOfOneFileSystemIsTheSame(t *testing.T) {
	shared := t.TempDir()
	h := newHost(t, shared)
	h.create("data")
	h.create("data", "filesystem=dir:"+anotherAddress(t, shared))
	if names, err := os.ReadDir(filepath.Join(shared, ".docker-volume-efs/volumes")); err != nil || len(names) != 1 {
		t.Errorf("records %v, %v", names, err)
	}
}

func anotherAddress(t *testing.T, shared string) string {
	t.Helper()
	alias := filepath.Join(t.TempDir(), "alias")
	if err := os.Symlink(shared, alias); err != nil {
		t.Fatal(err)
	}
	return alias
}

func TestRemovedElsewhereIsForgottenUnlessInUse(t *testing.T) {
	shared := t.TempDir()
	a := newHost(t, shared)
	b := newHost(t, shared, func(o *driver.Options) { o.Check = 20 * time.Millisecond })
	for _, name := range []string{"used", "idle"} {
		a.create(name)
		b.status(name)
	}
	b.mount("used", "1")
	// As by a host that took this one for dead.
	if err := os.Remove(filepath.Join(shared, ".docker-volume-efs/volumes/used.json")); err != nil {
		t.Fatal(err)
	}
	a.remove("idle")
	eventually(t, "the idle one is forgotten", func() bool {
		_, err := b.Get(t.Context(), "idle")
		return err != nil
	})
	eventually(t, "the used one has trouble", func() bool { return b.status("used")["trouble"] != nil })
}

func TestOneOddRecordDoesNotHideTheOthers(t *testing.T) {
	shared := t.TempDir()
	a := newHost(t, shared)
	a.create("data")
	if err := os.Mkdir(filepath.Join(shared, ".docker-volume-efs/volumes/odd.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	b := newHost(t, shared, func(o *driver.Options) { o.Check = 20 * time.Millisecond })
	eventually(t, "both are listed", func() bool {
		volumes, _ := b.List(t.Context())
		return len(volumes) == 2
	})
	if b.status("data")["trouble"] != nil {
		t.Errorf("trouble of the good one: %v", b.status("data")["trouble"])
	}
	if b.status("odd")["trouble"] == nil {
		t.Error("the odd one has no trouble")
	}
}

func TestRecordThatCannotBeReadDoesNotHideTheOthers(t *testing.T) {
	shared := t.TempDir()
	a := newHost(t, shared)
	a.create("data")
	odd := filepath.Join(shared, ".docker-volume-efs/volumes/odd.json")
	if err := os.Mkdir(odd, 0o700); err != nil {
		t.Fatal(err)
	}
	// What is mounted there is not read.
	if err := syscall.Mount(t.TempDir(), odd, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := mount.Detach(odd); err != nil {
			t.Error(err)
		}
	})
	b := newHost(t, shared, func(o *driver.Options) { o.Check, o.Kernel = 20*time.Millisecond, &faults{} })
	eventually(t, "the good one is listed", func() bool {
		volumes, _ := b.List(t.Context())
		return len(volumes) == 1
	})
}

func TestLostStateIsNoReasonToDenyAVolume(t *testing.T) {
	shared := filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, shared)
	h.create("data")
	h.stop()
	if err := errors.Join(
		os.WriteFile(filepath.Join(h.options.Data, "state/volumes"), []byte("garbage\n"), 0o600),
		os.Rename(shared, shared+"-away"),
	); err != nil {
		t.Fatal(err)
	}
	h.start()
	_, err := h.Get(t.Context(), "data")
	wantKind(t, err, driver.Failed, "does not exist on this host")
	if err := os.Rename(shared+"-away", shared); err != nil {
		t.Fatal(err)
	}
	h.status("data")
}

func TestVolumeMadeAnewWithOtherOptionsIsShownAsItIs(t *testing.T) {
	shared := t.TempDir()
	a, b := newHost(t, shared), newHost(t, shared)
	a.create("data", "path=/one")
	b.status("data")
	a.remove("data")
	a.create("data", "path=/two")
	b.mount("data", "1")
	if got := b.status("data")["path"]; got != "/two" {
		t.Errorf("path %v", got)
	}
}

func TestNothingIsLeftInTheCatalogue(t *testing.T) {
	shared := t.TempDir()
	h := newHost(t, shared)
	h.create("data", "path=/a/b")
	h.mount("data", "1")
	h.unmount("data", "1")
	h.remove("data")
	for _, dir := range []string{"tmp", "volumes", "deleting", "paths"} {
		entries, err := os.ReadDir(filepath.Join(shared, ".docker-volume-efs", dir))
		if err != nil || len(entries) > 0 {
			t.Errorf("%s holds %v, %v", dir, entries, err)
		}
	}
	info, err := os.Stat(filepath.Join(shared, ".docker-volume-efs"))
	if err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("catalogue has mode %v, %v", info.Mode(), err)
	}
}

func TestSecondProcessOnOneStateIsRefused(t *testing.T) {
	h := newHost(t, t.TempDir())
	d, err := driver.New(h.options, logrus.New())
	if err == nil {
		_ = d.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "another docker-volume-efs uses this data directory") {
		t.Errorf("error %v", err)
	}
}
