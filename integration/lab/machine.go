package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

const (
	qemuProgram = "qemu-system-x86_64"
	memorySize  = "1024M"
	memoryBytes = 1024 << 20
	// processor has all that the emulation knows but CMPXCHG16B, by which the kernel takes memory:
	// QEMU 7.2 interrupted in the midst of one left rubbish in the flags, and a host died of it
	// ("Oops: double fault" in __kmalloc_cache_noprof, EFLAGS part of an address). Without it the
	// kernel has another way.
	processor = "max,-cx16"
	// processors is one, though hosts have more: a kernel patches its own code while it runs
	// (text_poke_bp in arch/x86/kernel/alternative.c), and an emulation with a thread for each
	// processor may run into the breakpoint that the others are to trip over. Hosts died of it
	// ("Oops: int3") once in a few runs. Several of them share this machine's anyway.
	processors   = "1"
	diskSize     = "8G"                 // as build.sh makes it
	machinePlate = "docker-volume-efs:" // before the host's name in QEMU's -name
)

// machine is one running QEMU.
type machine struct {
	cmd     *exec.Cmd
	qmp     *qmp
	console *console
	gone    chan struct{} // closed when the process is gone
	ended   chan struct{} // closed after that, when onEnd has returned
	kill    func()
	onEnd   func()
}

// machineSpec says what to run. Paths are absolute.
type machineSpec struct {
	name    string
	address netip.Addr // zero: the guest configures none
	tap     string
	image   string   // directory with kernel and initrd
	disk    *os.File // qcow2 over base; may have no name any more
	base    string   // qcow2 or raw file below disk; empty: disk stands alone
	format  string   // of base
	memory  string   // file that is the memory; empty: anonymous
	share   bool     // writes go to the memory file
	restore bool     // wait for a machine state instead of booting
	socket  string   // where QEMU listens for QMP
	onEnd   func()   // called when the machine has ended, by whatever cause; may be nil
}

// kernelOptions are those of all hosts' kernels.
//
// no_timer_check: the kernel's check of its timer panics now and then when the machine
// that emulates it is busy.
//
// norandmaps: programs lie at the same addresses each time they run. QEMU before 8 finds
// code that it has translated by its address in the program, so it translates a program
// that lies elsewhere anew: docker volume ls took 1.9 s of an emulated processor, and
// takes 1.0.
const kernelOptions = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off no_timer_check norandmaps"

// hardware is the part of the command line that a saved machine state depends on.
func hardware() []string {
	return []string{
		"-nodefaults", "-no-user-config", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", processor,
		"-machine", "pc,memory-backend=ram", "-m", memorySize, "-smp", processors,
		"-display", "none", "-vga", "none",
		"-device", "virtio-net-pci,netdev=net,romfile=",
		"-device", "virtio-blk-pci,drive=disk",
		"-device", "virtio-rng-pci",
		// Hosts woken from one snapshot must not share their random numbers:
		// a new generation ID makes each kernel seed itself anew.
		"-device", "vmgenid,guid=auto",
	}
}

func (s machineSpec) args() []string {
	memory := "memory-backend-ram,id=ram,size=" + memorySize
	if s.memory != "" {
		memory = fmt.Sprintf("memory-backend-file,id=ram,size=%s,mem-path=%s,share=%s", memorySize, s.memory, onOff(s.share))
	}
	// The disk may have no name any more: QEMU opens it through its own descriptor 3.
	disk := "id=disk,if=none,format=qcow2,cache=unsafe,discard=unmap,file=/proc/self/fd/3"
	if s.base != "" {
		disk += fmt.Sprintf(",backing.driver=%s,backing.file.filename=%s", s.format, s.base)
	}
	kernel := kernelOptions + " lab.name=" + s.name
	if s.address.IsValid() {
		kernel += " lab.address=" + s.address.String()
	}
	args := append(hardware(),
		"-name", machinePlate+s.name,
		"-no-reboot",
		"-object", memory,
		"-kernel", filepath.Join(s.image, "kernel"),
		"-initrd", filepath.Join(s.image, "initrd"),
		"-append", kernel,
		"-serial", "stdio",
		"-qmp", "unix:"+s.socket+",server=on,wait=off",
		"-drive", disk,
		"-netdev", "tap,id=net,script=no,downscript=no,ifname="+s.tap,
	)
	if s.restore {
		args = append(args, "-incoming", "defer")
	}
	return args
}

// startMachine runs QEMU until stop, which the caller owes.
func startMachine(ctx context.Context, s machineSpec) (*machine, error) {
	if err := os.Remove(s.socket); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	cmd := exec.Command(qemuProgram, s.args()...)
	cmd.ExtraFiles = []*os.File{s.disk}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	m := &machine{cmd: cmd, console: newConsole(in), gone: make(chan struct{}), ended: make(chan struct{}), onEnd: s.onEnd}
	cmd.Stdout, cmd.Stderr = m.console, m.console
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	m.kill = sync.OnceFunc(func() { _ = cmd.Process.Kill() })
	go m.reap()

	dialing, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-m.ended: // no use to wait for its socket
			cancel()
		case <-dialing.Done():
		}
	}()
	if m.qmp, err = dialQMP(dialing, s.socket); err != nil {
		m.stop()
		return nil, fmt.Errorf("start %s: %w: %s", s.name, err, tail(m.console.String()))
	}
	return m, nil
}

func (m *machine) reap() {
	_ = m.cmd.Wait() // its error is in the state
	fmt.Fprintf(m.console, "\n--- QEMU ended: %s ---\n", m.cmd.ProcessState)
	m.console.end()
	close(m.gone) // first: who loses the connection asks why
	if m.onEnd != nil {
		m.onEnd()
	}
	close(m.ended)
}

// stop ends the machine like a power failure and waits until it is gone.
func (m *machine) stop() {
	m.kill()
	<-m.ended
	if m.qmp != nil {
		m.qmp.conn.Close()
	}
}

// qemuVersion identifies the emulator: a saved state fits only the one that saved it.
func qemuVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, qemuProgram, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask QEMU for its version: %w", err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line, nil
}

func onOff(b bool) string {
	return map[bool]string{true: "on", false: "off"}[b]
}

// findArg returns the value after the option name in a command line.
func findArg(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}
