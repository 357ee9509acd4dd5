package lab

import (
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// startBound calls run, which starts cmd and waits for it, on a thread that does
// nothing else, so that the kernel kills cmd when this process dies and not
// already when an idle thread of it ends.
func startBound(cmd *exec.Cmd, run func() error) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return run()
}
