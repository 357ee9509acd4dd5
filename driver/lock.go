package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Locks in stateDir: the plugin's, and its worker's.
const (
	pluginLock = "lock"
	workerLock = "worker-lock"
	// lockLimit is how long another process may take to end that uses the state: a worker
	// whose parent was killed is ended by the kernel, though not in the same instant.
	lockLimit = 2 * time.Second
	lockPause = 10 * time.Millisecond
)

var errLocked = errors.New("another process has it")

// Lock makes sure that one plugin uses a data directory: two would overwrite each other's counts. It
// is for a process that starts others which use it, one after the other, with [Options.Locked]. The
// lock ends when the file is closed, with the process at the latest.
func Lock(data string) (*os.File, error) {
	dir := filepath.Join(data, stateDir)
	if err := os.MkdirAll(dir, stateMode); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	return lockPlugin(dir)
}

func lockPlugin(dir string) (*os.File, error) {
	file, err := lockFile(filepath.Join(dir, pluginLock))
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("lock %s: another docker-volume-efs uses this data directory: stop it, or give another --data", filepath.Join(dir, pluginLock))
	}
	return file, err
}

// lockState is the same for the process that uses the state. A worker waits a moment for that of a
// parent that was killed, and no longer: it may be unable to end.
func (d *Driver) lockState(dir string) (err error) {
	if !d.options.Locked {
		d.lock, err = lockPlugin(dir)
		return err
	}
	if !d.options.Beside {
		if d.lock, err = lockFile(filepath.Join(dir, workerLock)); !errors.Is(err, errLocked) {
			return err
		}
		d.options.Beside = true
	}
	d.log.Warn("an earlier worker was killed and cannot end yet: it waits in the kernel for a file system")
	return nil
}

func lockFile(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state: %w", err)
	}
	for begun := time.Now(); ; {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if time.Since(begun) > lockLimit {
			return nil, errors.Join(errLocked, file.Close())
		}
		timer := time.NewTimer(lockPause)
		<-timer.C
	}
}
