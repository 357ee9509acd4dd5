package mounttest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// inside marks the copy of the test binary that runs in the namespaces.
const inside = "MOUNTTEST_INSIDE"

// users is how many users root can map; others map only themselves.
const users = 65536

// Main runs a package's tests as root of user, mount and network namespaces, which
// end with the tests, and then looks for leaked goroutines. It does not return.
func Main(m *testing.M) {
	if os.Getenv(inside) != "" {
		// A mount that was given up may still be ending its thread.
		goleak.VerifyTestMain(m)
		return
	}
	size := 1
	if os.Getuid() == 0 {
		size = users
	}
	command := exec.Command("/proc/self/exe", os.Args[1:]...)
	command.Env = append(os.Environ(), inside+"=1")
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: size}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: size}},
		Pdeathsig:   syscall.SIGKILL,
	}
	err := command.Run()
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
