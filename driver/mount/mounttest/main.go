package mounttest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// inside marks the copy of the test binary that runs in the namespaces; its value is
// the mount namespace that was left.
const inside = "MOUNTTEST_INSIDE"

// users is how many users root can map; others map only themselves.
const users = 65536

// Main runs a package's tests as root of user, mount and network namespaces, which
// end with the tests, and then looks for leaked goroutines. It does not return.
//
// In there everything is read-only but an empty temporary directory: tests of code
// that moves and removes directories as root must not be able to touch the machine's
// own, whatever the code does with the paths it gets.
func Main(m *testing.M) {
	if fuzzesOnly() {
		// The tool's workers cannot be followed into namespaces.
		os.Exit(m.Run())
	}
	if left := os.Getenv(inside); left != "" {
		if err := protectMachine(left); err != nil {
			fmt.Fprintln(os.Stderr, "protect the machine from its tests:", err)
			os.Exit(1)
		}
		goleak.VerifyTestMain(m)
		return
	}
	size := 1
	if os.Getuid() == 0 {
		size = users
	}
	scratch, err := os.MkdirTemp("", "mounttest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	command := exec.Command("/proc/self/exe", os.Args[1:]...)
	namespace, err := os.Readlink(mountNamespace)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// t.TempDir would prefer GOTMPDIR, which is read-only in there.
	command.Env = append(os.Environ(), inside+"="+namespace, "TMPDIR="+scratch, "GOTMPDIR=")
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: size}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: size}},
		Pdeathsig:   syscall.SIGKILL,
	}
	err = command.Run()
	_ = os.Remove(scratch) // empty: what lay in it was in the tests' own mount
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "tests in a user namespace (kernel.unprivileged_userns_clone must be 1):", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// mountNamespace names the namespace that a process is in.
const mountNamespace = "/proc/self/ns/mnt"

// fuzzesOnly tells whether the binary was started to fuzz and to run no test.
func fuzzesOnly() bool {
	return slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.fuzz=") }) &&
		slices.Contains(os.Args, "-test.run=^$")
}

// protectMachine makes all that is mounted read-only and gives the tests a temporary
// directory of their own. Where the test tool itself writes stays writable. It refuses
// to do that in the namespace that should have been left.
func protectMachine(left string) error {
	if here, err := os.Readlink(mountNamespace); err != nil || here == left || !strings.HasPrefix(left, "mnt:") {
		return errors.Join(fmt.Errorf("%s=%s is not for people to set", inside, left), err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &readOnly); err != nil {
		return fmt.Errorf("make mounts read-only: %w", err)
	}
	if err := unix.Mount("tests", os.TempDir(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return fmt.Errorf("mount %s: %w", os.TempDir(), err)
	}
	for _, dir := range toolDirs() {
		if err := makeWritable(dir); err != nil {
			return fmt.Errorf("make %s writable: %w", dir, err)
		}
	}
	if err := os.WriteFile("/.mounttest", nil, 0o600); !errors.Is(err, syscall.EROFS) {
		return errors.Join(errors.New("the root file system can still be written to"), err)
	}
	return nil
}

// toolDirs are the directories that go test told the binary to write to.
func toolDirs() []string {
	var dirs []string
	for _, argument := range os.Args[1:] {
		switch key, value, _ := strings.Cut(argument, "="); key {
		case "-test.testlogfile", "-test.coverprofile":
			dirs = append(dirs, filepath.Dir(value))
		case "-test.gocoverdir", "-test.outputdir", "-test.fuzzcachedir":
			dirs = append(dirs, value)
		}
	}
	return dirs
}

func makeWritable(dir string) error {
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	writable := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	return unix.MountSetattr(unix.AT_FDCWD, dir, 0, &writable)
}
