package driver_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// A disk that hangs holds up whoever writes to it, and not the look at all that is in use, which shows other hosts
// that this one lives.
func TestNobodyWaitsForADiskToSaveTheEndOfAUse(t *testing.T) {
	h := newHost(t, t.TempDir())
	saved := make(chan error, 1)
	go func() { saved <- h.SaveWhileAnotherWrites() }()
	select {
	case err := <-saved:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits")
	}
}

// smallDisk is a disk that is soon full.
func smallDisk(t *testing.T) (disk string) {
	t.Helper()
	disk = t.TempDir()
	if err := syscall.Mount("small", disk, "tmpfs", 0, "size=128k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return disk
}

// onSmallDisk is a host with a data directory on such a disk.
func onSmallDisk(t *testing.T) *testHost {
	t.Helper()
	disk := smallDisk(t)
	return newHost(t, t.TempDir(), func(o *driver.Options) { o.Data, o.Check = disk, 20*time.Millisecond })
}

// fill leaves no room in the data directory until the function it returns is called.
func (h *testHost) fill() (empty func()) {
	h.t.Helper()
	path := filepath.Join(h.options.Data, "filler")
	filler, err := os.Create(path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer filler.Close()
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		h.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			h.t.Error(err)
		}
	}
}

// fillDisk is fill that leaves no room for more than a short line in the file of the counts either. There
// must be a volume "x".
func (h *testHost) fillDisk() (empty func()) {
	h.t.Helper()
	empty = h.fill()
	for range 100 {
		if err := mountOf(h.t.Context(), h, "x", "1"); err != nil {
			wantKind(h.t, err, driver.Failed, "this host's own disk", "no space left on device", "check the disk")
			return empty
		}
		h.unmount("x", "1")
	}
	h.t.Fatal("the disk is not full")
	return nil
}

// saved is how often the file of the counts has a line about a volume.
func (h *testHost) saved(name string) int {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.options.Data, "state/mounts"))
	if err != nil {
		h.t.Fatal(err)
	}
	return bytes.Count(text, []byte(name))
}

// Docker tells once that a container has ended.
func TestContainerThatEndsWhileTheHostsDiskIsFullCountsNoMore(t *testing.T) {
	h := onSmallDisk(t)
	long := strings.Repeat("long-", 40) // a line that has no place
	h.create(long)
	h.create("x")
	for _, id := range []string{"1", "2"} {
		h.mount(long, id)
	}
	empty := h.fillDisk()
	before := h.saved(long)
	h.unmount(long, "1")
	h.wantCounts(long, map[string]int{"2": 1})
	if !h.mounted()[long] {
		t.Error("it is not mounted any more under the other container")
	}
	h.unmount(long, "2")
	h.wantCounts(long, nil)
	eventually(t, "the volume is detached", func() bool { return !h.mounted()[long] })
	if h.saved(long) != before {
		t.Fatal("the disk was not full")
	}
	empty()
	eventually(t, "it is saved", func() bool { return h.saved(long) > before })
	h.restart()
	h.wantCounts(long, nil)
	h.mount(long, "3")
	h.wantCounts(long, map[string]int{"3": 1})
}

// The count is back then, and the mount is not: its containers might go on.
func TestStartOnAFullDiskOfTheHost(t *testing.T) {
	for what, id := range map[string]string{
		"that has place for a use": "1",
		"that has none":            strings.Repeat("1", 4096),
	} {
		t.Run(what, func(t *testing.T) {
			h := onSmallDisk(t)
			long := strings.Repeat("long-", 40)
			h.create(long)
			h.create("x")
			h.mount(long, id)
			empty := h.fillDisk()
			h.unmount(long, id)
			eventually(t, "the volume is detached", func() bool { return !h.mounted()[long] })
			used := func() bool { return h.status(long)["used_by"] != nil }
			for range 3 {
				h.restart()
				if !used() {
					t.Error("its containers are forgotten, and may go on")
				}
			}
			h.unmount(long, id)
			if used() {
				t.Error("it counts as used after its last container")
			}
			empty()
			h.restart()
			if used() {
				t.Error("it counts as used again")
			}
		})
	}
}
