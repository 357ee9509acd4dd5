package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// snapshotLimit is how long the first boot may take on a slow machine.
const snapshotLimit = 10 * time.Minute

// snapshotLayout changes when the files of a snapshot do, so that one made by an
// earlier version of this package is not taken for one of this.
const snapshotLayout = "2"

// snapshot is a directory with a host at the moment when its Engine was up:
// disk.qcow2 (over the image's disk.raw), its memory, and the state of the rest.
// Nothing in it is written to after it is made: hosts map the memory privately
// and lay a disk of their own over disk.qcow2.
type snapshot struct{ dir string }

func (s snapshot) disk() string   { return filepath.Join(s.dir, "disk.qcow2") }
func (s snapshot) memory() string { return filepath.Join(s.dir, "memory") }
func (s snapshot) state() string  { return filepath.Join(s.dir, "state") }

// emptyDisk is what a host's own disk begins as. It is copied, since qemu-img
// would wait until the machine has written the whole snapshot to its disk.
func (s snapshot) emptyDisk() string { return filepath.Join(s.dir, "empty.qcow2") }

// snapshot returns the image's snapshot, made now if this QEMU has none yet, and
// the lock that keeps the image in the cache while it is used.
func (c *cache) snapshot(ctx context.Context, log io.Writer) (snapshot, *os.File, error) {
	version, err := qemuVersion(ctx)
	if err != nil {
		return snapshot{}, nil, err
	}
	digest := sha256.Sum256([]byte(version + snapshotLayout + kernelOptions + strings.Join(hardware(), " ")))
	s := snapshot{filepath.Join(c.image, "snapshot-"+hex.EncodeToString(digest[:6]))}

	lock, err := c.lock(ctx, unix.LOCK_SH, log)
	if err != nil {
		return s, nil, err
	}
	now := time.Now()
	if err := os.Chtimes(lock.Name(), now, now); err != nil {
		lock.Close()
		return s, nil, err
	}
	if exists(s.dir) {
		return s, lock, nil
	}
	lock.Close()
	if lock, err = c.lock(ctx, unix.LOCK_EX, log); err != nil {
		return s, nil, err
	}
	if !exists(s.dir) {
		if err := c.makeSnapshot(ctx, s, log); err != nil {
			lock.Close()
			return s, nil, err
		}
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH); err != nil {
		lock.Close()
		return s, nil, fmt.Errorf("share %s: %w", lock.Name(), err)
	}
	return s, lock, nil
}

// makeSnapshot boots the image for the first time and saves the running machine.
func (c *cache) makeSnapshot(ctx context.Context, final snapshot, log io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotLimit)
	defer cancel()
	if !exists(filepath.Join(c.image, "disk.raw")) {
		return fmt.Errorf("no %s image in %s: build it first (lab image)", c.suite, c.root)
	}
	partial := snapshot{filepath.Join(c.image, "snapshot.partial")}
	if err := os.RemoveAll(partial.dir); err != nil {
		return err
	}
	if err := os.Mkdir(partial.dir, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("make the %s snapshot: %w", c.suite, err)
		}
		err = errors.Join(err, os.RemoveAll(partial.dir))
	}()
	if err := addTap(ctx, "lab-snapshot"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeLink(ctx, "lab-snapshot")) }()

	base := filepath.Join(c.image, "disk.raw")
	if err := createDisk(ctx, base, "raw", partial.disk()); err != nil {
		return err
	}
	if err := createDisk(ctx, final.disk(), "qcow2", partial.emptyDisk()); err != nil {
		return err
	}
	disk, err := os.OpenFile(partial.disk(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer disk.Close()
	memory, err := os.Create(partial.memory())
	if err != nil {
		return err
	}
	if err := errors.Join(memory.Truncate(memoryBytes), memory.Close()); err != nil {
		return err
	}
	if err := c.bootAndSave(ctx, partial, disk, log); err != nil {
		return err
	}
	if err := c.removeSnapshots(); err != nil {
		return err
	}
	return os.Rename(partial.dir, final.dir)
}

// removeSnapshots removes those of other versions of QEMU or of this package; the
// caller holds the lock that says that nobody uses one.
func (c *cache) removeSnapshots() error {
	old, err := filepath.Glob(filepath.Join(c.image, "snapshot-*"))
	for _, dir := range old {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// createDisk makes an empty disk over base, which need not exist yet.
func createDisk(ctx context.Context, base, format, path string) error {
	return command(ctx, "", "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", base, "-F", format, path, diskSize)
}

func (c *cache) bootAndSave(ctx context.Context, s snapshot, disk *os.File, log io.Writer) error {
	m, err := startMachine(ctx, machineSpec{
		name: "snapshot", tap: "lab-snapshot", image: c.image,
		disk: disk, base: filepath.Join(c.image, "disk.raw"), format: "raw",
		memory: s.memory(), share: true, socket: filepath.Join(s.dir, "qmp"),
	})
	if err != nil {
		return err
	}
	defer m.stop()

	step := stopwatch(log, c.suite+" snapshot")
	if _, err := m.console.wait(ctx, 0, "lab: console"); err != nil {
		return err
	}
	if !strings.Contains(m.console.String(), "lab: booted") {
		return fmt.Errorf("the Engine did not start: %s", tail(m.console.String()))
	}
	step("first boot")
	if err := m.console.run(ctx, "lab-seal"); err != nil {
		return err
	}
	step("import of the container images")
	if err := m.save(ctx, s.state()); err != nil {
		return err
	}
	step("saved")
	return nil
}

// save stops the machine and writes its state, memory file apart, to path.
func (m *machine) save(ctx context.Context, path string) error {
	if err := m.qmp.command(ctx, "stop", nil, nil); err != nil {
		return err
	}
	if err := m.qmp.ignoreShared(ctx); err != nil {
		return err
	}
	if err := m.qmp.command(ctx, "migrate", map[string]string{"uri": "exec:cat >" + shellQuote(path)}, nil); err != nil {
		return err
	}
	if err := m.qmp.migrated(ctx); err != nil {
		return err
	}
	// QEMU writes out the disk's tables only when it ends in an orderly way.
	if err := m.qmp.command(ctx, "quit", nil, nil); err != nil {
		return err
	}
	<-m.ended
	return nil
}

// load brings a machine started to restore into the state saved at path and lets
// it run.
func (m *machine) load(ctx context.Context, path string) error {
	if err := m.qmp.ignoreShared(ctx); err != nil {
		return err
	}
	if err := m.qmp.command(ctx, "migrate-incoming", map[string]string{"uri": "exec:cat " + shellQuote(path)}, nil); err != nil {
		return err
	}
	if err := m.qmp.migrated(ctx); err != nil {
		return err
	}
	return m.qmp.command(ctx, "cont", nil, nil)
}

// stopwatch returns a function that writes what was done since its last call and
// how long it took.
func stopwatch(log io.Writer, subject string) func(text string) {
	before := time.Now()
	return func(text string) {
		fmt.Fprintf(log, "%s: %s: %.1f s\n", subject, text, time.Since(before).Seconds())
		before = time.Now()
	}
}

func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
