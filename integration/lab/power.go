package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// bootLimit is how long a host may take from power to a running Engine.
const bootLimit = 5 * time.Minute

// wakeLimit is how long a host may take to wake from the snapshot.
const wakeLimit = time.Minute

// wake starts the host from the snapshot and tells it who it is.
func (h *Host) wake(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, wakeLimit)
	defer cancel()
	defer func() {
		if err != nil {
			err = fmt.Errorf("wake %s from the snapshot: %w", h.name, err)
		}
	}()
	if err := h.makeDisk(); err != nil {
		return err
	}
	if err := addTap(ctx, h.name); err != nil {
		return err
	}
	// Plugged in only when the guest has its own address: until then it has the
	// hardware address of the snapshot, as all hosts have.
	spec := h.spec()
	spec.memory, spec.restore = h.lab.snapshot.memory(), true
	m, err := startMachine(ctx, spec)
	if err != nil {
		return err
	}
	h.setMachine(m)
	if err := m.load(ctx, h.lab.snapshot.state()); err != nil {
		return err
	}
	if err := m.console.run(ctx, fmt.Sprintf("lab-identity %s %s", h.name, h.address)); err != nil {
		return err
	}
	if err := plugIn(ctx, h.name); err != nil {
		return err
	}
	if _, err = h.connect(ctx); err != nil {
		return err
	}
	return h.setClock(ctx)
}

// setClock brings the clock of a host that was stopped to the present. The first
// call wakes the programs that it needs, the second is exact to some 50 ms.
func (h *Host) setClock(ctx context.Context) error {
	for range 2 {
		if _, err := h.Run(ctx, fmt.Sprintf("date --set @%.3f", float64(time.Now().UnixMilli())/1000)); err != nil {
			return fmt.Errorf("set the clock: %w", err)
		}
	}
	return nil
}

// makeDisk gives the host a disk of its own over the snapshot's. The file has no
// name, so that the space is free again when the last process with it ends.
func (h *Host) makeDisk() error {
	f, err := os.CreateTemp(h.lab.cache.root, "disk-")
	if err != nil {
		return err
	}
	empty, err := os.ReadFile(h.lab.snapshot.emptyDisk())
	if err == nil {
		_, err = f.Write(empty)
	}
	if err := errors.Join(err, os.Remove(f.Name())); err != nil {
		f.Close()
		return err
	}
	h.disk = f
	return nil
}

func (h *Host) spec() machineSpec {
	return machineSpec{
		name: h.name, address: h.address, tap: h.name,
		image: h.lab.cache.image, disk: h.disk, base: h.lab.snapshot.disk(), format: "qcow2",
		socket: filepath.Join(h.lab.dir, h.name+".qmp"),
		// The connection would never break by itself: nobody is left to reset it.
		onEnd: h.disconnect,
	}
}

// PowerOff takes the power from the host: nothing in it gets a chance to end in an
// orderly way, and what it had not written to its disk is lost. It does nothing to
// a host that is off.
func (h *Host) PowerOff() {
	m := h.running()
	if m == nil {
		return
	}
	m.stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.past += m.console.String()
	h.machine = nil
}

// PowerOn boots a host that is off from its own disk as it was left, with the same
// name and address, and returns when the Engine answers.
func (h *Host) PowerOn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if h.running() != nil {
		return fmt.Errorf("%s is on: power it off first", h.name)
	}
	if err := h.boot(ctx); err != nil {
		return fmt.Errorf("boot %s: %w", h.name, err)
	}
	if _, err := h.connect(ctx); err != nil {
		return err
	}
	if _, err := h.Run(ctx, "start-docker 2>&1"); err != nil {
		return fmt.Errorf("boot %s: the Engine did not start: %w", h.name, err)
	}
	return nil
}

// bootAttempts is how often a host is booted whose kernel falls victim to the emulation.
const bootAttempts = 3

// boot starts the machine and waits for its console.
func (h *Host) boot(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		m, err := startMachine(ctx, h.spec())
		if err != nil {
			return err
		}
		h.setMachine(m)
		if _, err = m.console.wait(ctx, 0, "lab: console"); err == nil {
			return nil
		}
		if attempt == bootAttempts || !m.patched() {
			return err
		}
		h.PowerOff()
	}
}

// patched tells whether the kernel died of a break point of its own: it sets one on code that
// it is about to change, and the emulation of several processors may run into it
// (text_poke_bp_batch, arch/x86/kernel/alternative.c). It is no work of anything on the host.
func (m *machine) patched() bool { return strings.Contains(m.console.String(), "Oops: int3") }

// Pause stops the host's processors, as a host does that hangs; connections to it
// stay open and nothing answers.
func (h *Host) Pause(ctx context.Context) error { return h.tell(ctx, "stop", nil) }

// Resume lets a paused host go on where it stopped, with its clock set to the
// present.
func (h *Host) Resume(ctx context.Context) error {
	if err := h.tell(ctx, "cont", nil); err != nil {
		return err
	}
	return h.setClock(ctx)
}

// StallDisk has the host's disk hang: what the kernel does not have in memory waits. ReleaseDisk ends that.
func (h *Host) StallDisk(ctx context.Context) error { return h.limitDisk(ctx, 1) }

// ReleaseDisk lets a disk go on that was stalled.
func (h *Host) ReleaseDisk(ctx context.Context) error { return h.limitDisk(ctx, 0) }

// limitDisk limits what the disk reads and writes, in bytes a second; 0 is no limit.
func (h *Host) limitDisk(ctx context.Context, bytes int) error {
	return h.tell(ctx, "block_set_io_throttle", map[string]any{
		"device": "disk", "bps": bytes, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0,
	})
}

func (h *Host) tell(ctx context.Context, order string, arguments any) error {
	m := h.running()
	if m == nil {
		return fmt.Errorf("%s is off: power it on first", h.name)
	}
	return m.qmp.command(ctx, order, arguments, nil)
}

// Console is everything that the host said on its serial line, through all its
// boots: what to read when it does not answer.
func (h *Host) Console() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.machine == nil {
		return h.past
	}
	return h.past + h.machine.console.String()
}

func (h *Host) running() *machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.machine
}

func (h *Host) setMachine(m *machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.machine = m
}

// close ends the host and forgets its disk and its end of the network.
func (h *Host) close() error {
	h.PowerOff()
	if h.disk == nil {
		return nil
	}
	return errors.Join(h.disk.Close(), removeLink(context.Background(), h.name))
}
