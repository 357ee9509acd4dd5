package sunrpc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrUnsupported reports a kernel that does not list its transports: older than
// Linux 5.14, or without the module sunrpc.
var ErrUnsupported = errors.New("the kernel does not show its RPC transports (Linux 5.14 or newer, with NFS in use)")

const (
	switches     = "kernel/sunrpc/xprt-switches"
	addressFile  = "dstaddr"
	localFile    = "srcaddr"
	infoFile     = "xprt_info"
	switchPrefix = "switch-"
	xprtPrefix   = "xprt-"
	tcpSuffix    = "-tcp"
)

// Table is the kernel's list of transports in one network namespace.
type Table struct{ sys *os.Root }

// Open mounts a sysfs of its own, for the calling thread's network namespace. It
// needs CAP_SYS_ADMIN. The module sunrpc may be loaded later.
func Open() (*Table, error) {
	ctx, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open sysfs: %w", err)
	}
	defer unix.Close(ctx)
	if err := unix.FsconfigCreate(ctx); err != nil {
		return nil, fmt.Errorf("make sysfs: %w", err)
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("mount sysfs: %w", err)
	}
	defer unix.Close(fd)
	return OpenDir(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// OpenDir takes the sysfs that is mounted at a directory.
func OpenDir(dir string) (*Table, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Table{root}, nil
}

// Close closes the table.
func (t *Table) Close() error { return t.sys.Close() }

// Transports lists the transports over TCP. One that ends while the list is made is left
// out. It fails with [ErrUnsupported].
func (t *Table) Transports() ([]Transport, error) {
	names, err := t.names(switches)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrUnsupported
	}
	if err != nil {
		return nil, err
	}
	var all []Transport
	for _, name := range names {
		if !strings.HasPrefix(name, switchPrefix) {
			continue
		}
		some, err := t.transportsOf(name)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// transportsOf lists those of one switch, none if it has ended.
func (t *Table) transportsOf(name string) ([]Transport, error) {
	xprts, err := t.names(path.Join(switches, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []Transport
	for _, xprt := range xprts {
		if !strings.HasPrefix(xprt, xprtPrefix) || !strings.HasSuffix(xprt, tcpSuffix) {
			continue
		}
		one, err := t.transport(path.Join(name, xprt))
		if err == nil {
			all = append(all, one)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return all, nil
}

func (t *Table) names(dir string) ([]string, error) {
	file, err := t.sys.Open(dir)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return file.Readdirnames(-1)
}

func (t *Table) transport(name string) (Transport, error) {
	address, err := t.sys.ReadFile(path.Join(switches, name, addressFile))
	if err != nil {
		return Transport{}, err
	}
	one := Transport{Name: name}
	if one.Server, err = netip.ParseAddr(strings.TrimSpace(string(address))); err != nil {
		return Transport{}, fmt.Errorf("transport %s: %w", name, err)
	}
	var texts [2]string
	for i, file := range []string{localFile, infoFile} {
		text, err := t.sys.ReadFile(path.Join(switches, name, file))
		if errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.EAGAIN) {
			return one, nil
		}
		if err != nil {
			return Transport{}, err
		}
		if notConnected(text) {
			return one, nil
		}
		texts[i] = string(text)
	}
	return one, one.parse(texts[0], texts[1])
}

// notConnected tells whether a file of a transport says that it has no connection:
// newer ones (6.12 does) give a word in angle brackets, "<closed>", where older ones fail.
func notConnected(text []byte) bool { return bytes.HasPrefix(text, []byte("<")) }

// Transport reads one transport by its name.
func (t *Table) Transport(name string) (Transport, error) { return t.transport(name) }
