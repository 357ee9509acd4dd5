package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// environment tells a worker which descriptor leads to its parent.
	environment = "DOCKER_VOLUME_EFS_KEEPER"
	// besideMark follows the number if an earlier worker has not ended.
	besideMark = " beside"
)

// program is this very one, also if its file was removed or replaced meanwhile: a
// crash must not turn into an upgrade, or into an end.
const program = "/proc/self/exe"

// work runs one worker to its end and says how it ended. If it was not to be started
// any more, that counts as a good end.
func (k *keeper) work() (unix.WaitStatus, error) {
	ours, theirs, err := pair()
	if err != nil {
		return 0, fmt.Errorf("start the worker: %w", err)
	}
	defer ours.Close()
	process, ended, err := k.children.start(func(beside bool) (*os.Process, error) { return k.start(theirs, beside) })
	_ = theirs.Close()
	if err != nil || process == nil {
		return 0, err
	}
	var serving sync.WaitGroup
	serving.Go(func() { k.kept.serve(ours) })
	status, stuck := k.await(process.Pid, ended)
	if stuck {
		k.log.Error("the worker was killed and cannot end, it waits in the kernel: the next one begins beside it")
	}
	k.mu.Lock()
	k.worker = nil
	k.mu.Unlock()
	_ = process.Release()
	// A child of the worker may still hold the other end.
	_ = ours.Close()
	serving.Wait()
	return status, nil
}

// start starts a worker, or gives nil if the end was called for.
func (k *keeper) start(theirs *os.File, beside bool) (*os.Process, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.isEnded() {
		return nil, nil //nolint:nilnil // neither a worker nor a failure
	}
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs}
	value := strconv.Itoa(len(files) - 1)
	if beside {
		value += besideMark
	}
	process, err := os.StartProcess(program, k.argv, &os.ProcAttr{
		Env:   append(withoutOurs(os.Environ()), environment+"="+value),
		Files: files,
		Sys: &syscall.SysProcAttr{
			Pdeathsig: unix.SIGKILL,
			// A terminal signals a whole process group; the worker gets its
			// signals from the parent, once.
			Setpgid: true,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("start the worker: %w", err)
	}
	k.worker = process
	return process, nil
}

func withoutOurs(environ []string) []string {
	var others []string
	for _, variable := range environ {
		if !strings.HasPrefix(variable, environment+"=") {
			others = append(others, variable)
		}
	}
	return others
}

// pair makes a pair of sockets that keep messages apart, and tell when the other end
// is closed. Neither is inherited by accident.
func pair() (*net.UnixConn, *os.File, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(ends[1]), "the worker's end")
	ours, err := connection(ends[0])
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

// connection takes the descriptor of a Unix socket.
func connection(fd int) (*net.UnixConn, error) {
	file := os.NewFile(uintptr(fd), "a keeper's socket")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("not a Unix socket"), conn.Close())
	}
	return unixConn, nil
}
