package mount

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The directories of a root's private namespace.
const (
	rootDir  = "/fs"
	sysDir   = "/sys"
	staging  = "/proc" // any directory that every host has; covered in this namespace only
	tmpfsCap = "size=64k,mode=0700"
)

// enterNamespaces puts the calling thread, which must be locked and must end
// with its goroutine, into a mount namespace with nothing but a small tmpfs and
// a UTS namespace of its own. Everything the host has mounted is dropped from the new
// namespace, so that it pins nothing; before that it calls lastLook, which still
// sees the host's files. It returns the namespace's mount table and the statistics of
// its mounts, nil if the kernel has none.
func enterNamespaces(host string, lastLook func() error) (table, stats *os.File, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return nil, nil, fmt.Errorf("make private namespaces (CAP_SYS_ADMIN is needed): %w", err)
	}
	proc, err := os.OpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	defer proc.Close()
	steps := []struct {
		what string
		do   func() error
	}{
		{"set host name", func() error { return unix.Sethostname([]byte(host)) }},
		{"make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"look back", lastLook},
		{"mount tmpfs", func() error {
			return unix.Mount("tmpfs", staging, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, tmpfsCap)
		}},
		{"enter tmpfs", func() error { return unix.Chdir(staging) }},
		{"pivot root", func() error { return unix.PivotRoot(".", ".") }},
		{"drop the host's mounts", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
		{"enter new root", func() error { return unix.Chdir("/") }},
		{"make " + rootDir, func() error { return unix.Mkdir(rootDir, 0o700) }},
		{"make " + sysDir, func() error { return unix.Mkdir(sysDir, 0o700) }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return nil, nil, fmt.Errorf("private namespace: %s: %w", step.what, err)
		}
	}
	// Opened now, they are this thread's, from its new root on.
	if table, err = openOwn(proc, "mountinfo"); err != nil {
		return nil, nil, err
	}
	// Nothing is lost without the statistics but what Introductions tells.
	stats, _ = openOwn(proc, "mountstats")
	return table, stats, nil
}

// openOwn opens a file of the calling thread in proc(5). "thread-self" has no mountstats, the
// thread's number as a process does.
func openOwn(proc *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(proc.Fd()), fmt.Sprintf("%d/%s", unix.Gettid(), name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
