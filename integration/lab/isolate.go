package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// isolatedVariable tells the second copy of the program that it is the second.
const isolatedVariable = "DOCKER_VOLUME_EFS_LAB"

// Isolate moves the program into namespaces of its own by running it a second
// time. In the first process it calls prepare, which still has the machine's
// network, then starts the second with the same arguments, passes signals on to
// it, waits, and returns done with the code to exit with. In the second process
// it returns at once, not done, and the program goes on from there:
//
//	code, done, err := lab.Isolate(prepare)
//	if err != nil || done { ... os.Exit(code) }
//
// When the first process dies, even by SIGKILL, the kernel kills the second and
// with it everything that it started.
func Isolate(prepare func(context.Context) error) (code int, done bool, err error) {
	if isolated() {
		return 0, false, enter()
	}
	if os.Geteuid() != 0 {
		return 1, true, errors.New("the test hosts need root for their network: run this again with sudo")
	}
	if err := prepareInterruptibly(prepare); err != nil {
		return 1, true, err
	}
	code, err = runAgain()
	return code, true, err
}

// isolated reports whether this process is the one inside the namespaces.
func isolated() bool {
	return os.Getpid() == 1 && os.Getenv(isolatedVariable) != ""
}

func prepareInterruptibly(prepare func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	return prepare(ctx)
}

// runAgain runs this program in new namespaces and returns its exit code.
func runAgain() (int, error) {
	program, err := os.Executable()
	if err != nil {
		return 1, fmt.Errorf("find this program to run it isolated: %w", err)
	}
	// The death signal is bound to the thread that starts the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	child := exec.Command(program, os.Args[1:]...)
	child.Args[0] = os.Args[0]
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	// t.TempDir would prefer GOTMPDIR, which is read-only in there.
	child.Env = append(os.Environ(), isolatedVariable+"=1", "GOTMPDIR=")
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
		// A group of its own: ctrl-C then reaches it once, through us, not twice.
		Setpgid: true,
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)
	if err := child.Start(); err != nil {
		return 1, fmt.Errorf("start in new namespaces (network, mount and PID namespaces must be allowed): %w", err)
	}
	ended := make(chan struct{})
	go forwardSignals(child.Process, signals, ended)
	err = child.Wait()
	close(ended)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 1, fmt.Errorf("wait for the isolated process: %w", err)
	case exit.ExitCode() >= 0:
		return exit.ExitCode(), nil
	default:
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal()), nil
	}
}

func forwardSignals(to *os.Process, signals <-chan os.Signal, ended <-chan struct{}) {
	for {
		select {
		case s := <-signals:
			// A child that has just ended needs no signal.
			_ = to.Signal(s)
		case <-ended:
			return
		}
	}
}

// enter completes the isolation from inside: mounts made from now on stay here, the
// machine's files cannot be changed, /proc shows the processes of this namespace,
// loopback works.
func enter() error {
	if err := os.Unsetenv(isolatedVariable); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := protectMachine(); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount a /proc for the new PID namespace: %w", err)
	}
	return command(context.Background(), "", "ip", "link", "set", "lo", "up")
}

// protectMachine makes all that is mounted read-only but the cache, the temporary and the
// working directory: what runs here is root, and tests of code that moves and removes
// directories must not be able to reach the machine's own.
func protectMachine() error {
	cache, err := cacheRoot()
	if err != nil {
		return err
	}
	working, err := os.Getwd()
	if err != nil {
		return err
	}
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &readOnly); err != nil {
		return fmt.Errorf("make the machine's files read-only: %w", err)
	}
	writable := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	for _, dir := range []string{cache, os.TempDir(), working} {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("keep %s writable: %w", dir, err)
		}
		if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, &writable); err != nil {
			return fmt.Errorf("keep %s writable: %w", dir, err)
		}
	}
	// The working directory's descriptor is still on the read-only mount.
	return os.Chdir(working)
}
