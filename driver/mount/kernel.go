package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// attachRoot puts a mount at the thread's rootDir, because only an attached one
// can be cloned, and opens it. It takes the descriptor over.
func attachRoot(fd int) (*tree.Dir, error) {
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, rootDir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	dirFD, err := unix.Open(rootDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	return tree.FromFD(dirFD, "/"), nil
}

// newMount makes a mount that is not attached anywhere yet.
func newMount(m Mount) (int, error) {
	ctx, err := unix.Fsopen(m.Type, unix.FSOPEN_CLOEXEC)
	if err != nil {
		if errors.Is(err, unix.ENODEV) {
			return -1, fmt.Errorf("the kernel has no %s file system: load its module (modprobe nfsv4)", m.Type)
		}
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(ctx)
	if err := unix.FsconfigSetString(ctx, "source", m.Source); err != nil {
		return -1, explain(ctx, "source", err)
	}
	for _, option := range m.Options {
		key, value, hasValue := strings.Cut(option, "=")
		if hasValue {
			err = unix.FsconfigSetString(ctx, key, value)
		} else {
			err = unix.FsconfigSetFlag(ctx, key)
		}
		if err != nil {
			return -1, explain(ctx, option, err)
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, explain(ctx, "", err)
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return -1, explain(ctx, "", err)
	}
	return fd, nil
}

// explain adds what the kernel says of a failure: the context's log has lines
// like "e nfs: bad option" (fsopen(2)).
func explain(ctx int, option string, err error) error {
	if option != "" {
		err = fmt.Errorf("option %s: %w", option, err)
	}
	line := make([]byte, 512)
	for {
		n, readErr := unix.Read(ctx, line)
		if readErr != nil || n <= 2 {
			return err
		}
		if line[0] == 'e' {
			err = fmt.Errorf("%w (%s)", err, strings.TrimSpace(string(line[2:n])))
		}
	}
}

// setReadAhead writes the window of the mount's backing device. A managed
// plugin's /sys is read-only, so the private namespace has one of its own.
func setReadAhead(dir *tree.Dir, kib int) error {
	if err := unix.Mount("sysfs", sysDir, "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("set read-ahead: mount sysfs: %w", err)
	}
	defer func() { _ = unix.Unmount(sysDir, unix.MNT_DETACH) }()
	id, err := dir.Identity()
	if err != nil {
		return fmt.Errorf("set read-ahead: %w", err)
	}
	device := fmt.Sprintf("%d:%d", unix.Major(id.Device), unix.Minor(id.Device))
	file := filepath.Join(sysDir, "class/bdi", device, "read_ahead_kb")
	if err := os.WriteFile(file, []byte(strconv.Itoa(kib)), 0); err != nil {
		return fmt.Errorf("set read-ahead: %w", err)
	}
	return nil
}
