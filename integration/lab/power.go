package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	if err := h.makeDisk(ctx); err != nil {
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
	now := float64(time.Now().UnixNano()) / float64(time.Second)
	if err := m.console.run(ctx, fmt.Sprintf("lab-identity %s %s %.3f", h.name, h.address, now)); err != nil {
		return err
	}
	if err := plugIn(ctx, h.name); err != nil {
		return err
	}
	_, err = h.connect(ctx)
	return err
}

// makeDisk gives the host a disk of its own over the snapshot's. The file has no
// name, so that the space is free again when the last process with it ends.
func (h *Host) makeDisk(ctx context.Context) error {
	f, err := os.CreateTemp(h.lab.cache.root, "disk-")
	if err != nil {
		return err
	}
	create := command(ctx, "", "qemu-img", "create", "-q", "-u", "-f", "qcow2",
		"-b", h.lab.snapshot.disk(), "-F", "qcow2", f.Name(), diskSize)
	if err := errors.Join(create, os.Remove(f.Name())); err != nil {
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
	}
}

// PowerOff takes the power from the host: nothing in it gets a chance to end in an
// orderly way, and what it had not written to its disk is lost. It does nothing to
// a host that is off.
func (h *Host) PowerOff() {
	h.disconnect()
	h.mu.Lock()
	m := h.machine
	h.machine = nil
	if m != nil {
		h.past += m.console.String() + "\n--- power off ---\n"
	}
	h.mu.Unlock()
	if m != nil {
		m.stop()
	}
}

// PowerOn boots a host that is off from its own disk as it was left, with the same
// name and address, and returns when the Engine answers.
func (h *Host) PowerOn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if h.running() != nil {
		return fmt.Errorf("%s is on: power it off first", h.name)
	}
	m, err := startMachine(ctx, h.spec())
	if err != nil {
		return err
	}
	h.setMachine(m)
	if _, err := m.console.wait(ctx, 0, "lab: console"); err != nil {
		return fmt.Errorf("boot %s: %w", h.name, err)
	}
	_, err = h.connect(ctx)
	if err != nil {
		return err
	}
	if _, err := h.Run(ctx, "start-docker 2>&1"); err != nil {
		return fmt.Errorf("boot %s: the Engine did not start: %w", h.name, err)
	}
	return nil
}

// Pause stops the host's processors, as a host does that hangs; connections to it
// stay open and nothing answers.
func (h *Host) Pause(ctx context.Context) error { return h.tell(ctx, "stop") }

// Resume lets a paused host go on where it stopped.
func (h *Host) Resume(ctx context.Context) error { return h.tell(ctx, "cont") }

func (h *Host) tell(ctx context.Context, order string) error {
	m := h.running()
	if m == nil {
		return fmt.Errorf("%s is off: power it on first", h.name)
	}
	return m.qmp.command(ctx, order, nil, nil)
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
