package driver

import (
	"net/netip"

	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// Kernel is what the driver asks of the kernel's mounts. The real one is
// package mount; tests put faults in front of it.
type Kernel interface {
	// Open begins to mount; the result is the caller's to close.
	Open(m mount.Mount) Root
	// Detach unmounts the uppermost mount at target and tells whether there was one.
	Detach(target string) (mounted bool, err error)
	// Under lists what is mounted directly beneath a directory.
	Under(dir string) (map[string]bool, error)
	// Offers fails if the kernel has no file system of that type and no module for it.
	Offers(fileSystem string) error
	// Transports opens the kernel's transports of NFS; the result is the caller's to close.
	Transports() (*sunrpc.Table, error)
}

// Root is a root mount; see [mount.Root].
type Root interface {
	Done() <-chan struct{}
	Err() error
	Warning() error
	Dir() *tree.Dir
	Attach(dir *tree.Dir, target string, flags mount.Flags) error
	Server() (netip.AddrPort, error)
	Introductions() (int, error)
	Close()
	Finished() <-chan struct{}
}

var _ Root = (*mount.Root)(nil)

// realKernel is the machine's own.
type realKernel struct{}

var _ Kernel = realKernel{}

func (realKernel) Open(m mount.Mount) Root                   { return mount.Open(m) }
func (realKernel) Detach(target string) (bool, error)        { return mount.Detach(target) }
func (realKernel) Under(dir string) (map[string]bool, error) { return mount.Under(dir) }
func (realKernel) Offers(fileSystem string) error            { return mount.Offers(fileSystem) }
func (realKernel) Transports() (*sunrpc.Table, error)        { return sunrpc.Open() }
