package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// listFile names the file systems that the kernel has at the moment (filesystems(5)).
const listFile = "/proc/filesystems"

// ErrNotOffered reports a file system that the kernel does not have.
var ErrNotOffered = errors.New("the kernel does not have this file system, and no module of it can be loaded")

// Offers fails with [ErrNotOffered] if the kernel has no file system of that type. One that is a
// module gets loaded, as by a mount; nothing is mounted. Without the right to mount, it tells
// only what is loaded.
func Offers(fileSystem string) error {
	fd, err := unix.Fsopen(fileSystem, unix.FSOPEN_CLOEXEC)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, unix.ENODEV):
		return ErrNotOffered
	case !errors.Is(err, unix.EPERM):
		return fmt.Errorf("fsopen: %w", err)
	}
	list, err := os.ReadFile(listFile)
	if err != nil {
		return err
	}
	if !listed(string(list), fileSystem) {
		return fmt.Errorf("%w, or it is not loaded yet, which only root can find out", ErrNotOffered)
	}
	return nil
}

// listed reads lines of "nodev	NAME", the first word of which may be missing.
func listed(list, fileSystem string) bool {
	for line := range strings.Lines(list) {
		words := strings.Fields(line)
		if len(words) > 0 && words[len(words)-1] == fileSystem {
			return true
		}
	}
	return false
}

// tableFile is the mount table of this process (proc_pid_mountinfo(5)).
const tableFile = "/proc/self/mountinfo"

// NFSTable returns the lines of the mount table that are NFS mounts, as the process's own
// namespace has them. It touches none of the mounts.
func NFSTable() (string, error) {
	table, err := os.ReadFile(tableFile)
	if err != nil {
		return "", err
	}
	return nfsLines(string(table)), nil
}

func nfsLines(table string) string {
	var nfs strings.Builder
	for line := range strings.Lines(table) {
		// "- TYPE SOURCE OPTIONS" ends a line; a separator alone tells where.
		if _, kind, found := strings.Cut(line, " - "); found && strings.HasPrefix(kind, "nfs") {
			nfs.WriteString(line)
		}
	}
	return nfs.String()
}
