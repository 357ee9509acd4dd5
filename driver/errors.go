package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/state"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

// Kind sorts errors by what the caller can do.
type Kind int

// The kinds of error.
const (
	// Failed is any other failure; the text says what to do.
	Failed Kind = iota
	// Invalid input: the request must be changed.
	Invalid
	// NotFound: there is no such volume.
	NotFound
	// Conflict: the volume exists and is another one.
	Conflict
	// Unavailable: the file system does not answer; the same call may work later.
	Unavailable
)

// Error is what every method of [Driver] fails with.
type Error struct {
	Op     string // "create", "mount" …
	Volume string
	Kind   Kind
	Err    error
}

// Error is one line: operation, volume, cause, and what to do.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s volume %q: %v", e.Op, e.Volume, e.Err)
	if hint := advice(e.Err); hint != "" {
		text += "; " + hint
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// invalid marks an error as one of the caller's input.
type invalid struct{ error }

func (i invalid) Unwrap() error { return i.error }

// conflict marks an error as a volume that exists with another definition.
type conflict struct{ error }

func (c conflict) Unwrap() error { return c.error }

// explained marks an error whose own text says what to do.
type explained struct{ error }

func (e explained) Unwrap() error { return e.error }

// errSilent reports a file system that has not answered in time.
var errSilent = errors.New("does not answer")

func fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Volume: name, Kind: kindOf(err), Err: err}
}

func kindOf(err error) Kind {
	var bad invalid
	var other conflict
	switch {
	case errors.As(err, &bad):
		return Invalid
	case errors.As(err, &other):
		return Conflict
	case errors.Is(err, catalog.ErrNotFound):
		return NotFound
	case errors.Is(err, errSilent), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ECONNREFUSED):
		return Unavailable
	}
	return Failed
}

// advice says what an operator does about a cause that the error's own text
// does not explain.
func advice(err error) string {
	var dns *net.DNSError
	var said explained
	switch {
	case errors.As(err, &said):
		return ""
	case errors.Is(err, state.ErrHostDisk):
		return "check the disk that holds the plugin's data directory"
	case errors.As(err, &dns):
		return "check the file system's name, and that this host's DNS knows it (an EFS name resolves only inside its VPC)"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "check that the NFS server is running and that address and port are right"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "check the route from this host to the mount target"
	case errors.Is(err, proxy.ErrNotNFS):
		return "check address and port: the server must offer NFSv4.1"
	case errors.Is(err, errSilent):
		return "check that the server is up and that the security group lets this host reach port 2049; running containers wait for it without losing data"
	case errors.Is(err, context.Canceled):
		return "the caller gave up; the same call may be repeated"
	case errors.Is(err, tree.ErrSymlink):
		return "links are never followed: remove the link, or give the directory's own path"
	case errors.Is(err, tree.ErrCrosses):
		return "give a path that stays on one file system"
	case errors.Is(err, syscall.ENOTDIR):
		return "a file is in the way: remove it or give another path"
	case errors.Is(err, syscall.EROFS):
		return "the file system is exported read-only: export it with write permission; on EFS allow elasticfilesystem:ClientWrite in its policy or in this host's"
	case errors.Is(err, fs.ErrPermission):
		return "the server does not let this host's root do that: check the export's write permission and root squash; on EFS allow elasticfilesystem:ClientWrite and ClientRootAccess in its policy or in this host's"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "the file system is full: free some space or raise the quota"
	case errors.Is(err, syscall.ESTALE):
		return "the directory was replaced on the server; try again"
	case errors.Is(err, catalog.ErrDamagedLease):
		return "when no host has the volume mounted any more, remove its directory in " + catalog.DirName + "/leases: the next mount makes it anew"
	case errors.Is(err, catalog.ErrDamagedHost):
		return "remove that file if its host is gone; one that lives writes it anew when a container there begins or ceases to use a volume"
	case errors.Is(err, catalog.ErrDamaged):
		return "restore the record in " + catalog.DirName + "/volumes, or create the volume again: its data is not touched"
	}
	return ""
}
