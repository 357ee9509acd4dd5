package web

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
)

// Snapshot is how everything is at one moment. The zero value is a healthy program
// that has no file systems.
type Snapshot struct {
	Version string `json:"version"`
	Host    string `json:"host,omitempty"`
	// Since is when the program began to serve.
	Since time.Time `json:"since,omitzero"`
	// Trouble is what is wrong and belongs to no file system or volume, one sentence each.
	Trouble     []string     `json:"trouble"`
	FileSystems []FileSystem `json:"filesystems"`
	// Volumes are those that are mounted on this host. A gateway knows of none.
	Volumes []Volume `json:"volumes"`
}

// FileSystem is a file system with its mount targets, and the ways to it.
type FileSystem struct {
	// GroupState says where it is, where else it could be, and where it was. A file system without
	// mount targets, such as a local directory, has a name only.
	proxy.GroupState
	Trouble    string      `json:"trouble,omitempty"`
	Transports []Transport `json:"transports"`
}

// Path is how a transport reaches its mount target.
type Path string

const (
	Direct  Path = "direct" // the kernel's NFS client connects to it
	Relayed Path = "relay"  // through a relay of this program
)

// Transport is one way of using a file system. For a gateway it is a listener.
type Transport struct {
	Path Path `json:"path"`
	// Why it has this path, if that was not simply asked for.
	Why string `json:"why,omitempty"`
	// Listen is where a relay listens.
	Listen netip.AddrPort `json:"listen,omitzero"`
	// Traffic is a relay's; nil for a direct path, whose bytes the kernel counts. Counters are summed
	// over a file system's relays and must not go back: leave a relay that has ended in the list.
	Traffic *relay.Stats `json:"traffic,omitempty"`
}

// Volume is a volume that is mounted on this host.
type Volume struct {
	Name       string    `json:"name"`
	FileSystem string    `json:"filesystem"`
	Since      time.Time `json:"since,omitzero"`
	// Mounts is how many uses of it there are.
	Mounts  int      `json:"mounts"`
	Trouble []string `json:"trouble,omitempty"`
}

// Troubles is all that is wrong: what the snapshot's user says, and file systems of
// which no mount target answers. That one of several is down is no trouble: it is
// what the others are for.
func (s Snapshot) Troubles() []string {
	troubles := slices.Clone(s.Trouble)
	for _, f := range s.FileSystems {
		if f.Trouble != "" {
			troubles = append(troubles, fmt.Sprintf("file system %s: %s", f.FileSystem, f.Trouble))
		}
		if f.silent() {
			troubles = append(troubles, fmt.Sprintf("file system %s: no mount target answers: %s", f.FileSystem, f.reasons()))
		}
	}
	for _, v := range s.Volumes {
		for _, trouble := range v.Trouble {
			troubles = append(troubles, fmt.Sprintf("volume %s: %s", v.Name, trouble))
		}
	}
	return troubles
}

// silent tells whether there are mount targets and all of them fail.
func (f FileSystem) silent() bool {
	return len(f.Targets) > 0 && !slices.ContainsFunc(f.Targets, func(t proxy.TargetState) bool {
		return t.Health != proxy.Doubt && t.Health != proxy.Down
	})
}

func (f FileSystem) reasons() string {
	var reasons []string
	for _, t := range f.Targets {
		reasons = append(reasons, fmt.Sprintf("%s: %s", t.Target, t.Why))
	}
	return strings.Join(reasons, "; ")
}

// lists makes empty lists of those that are not there, so that programs that read the
// JSON can go through them.
func (s Snapshot) lists() Snapshot {
	s.Trouble, s.Volumes = list(s.Trouble), list(s.Volumes)
	s.FileSystems = slices.Clone(list(s.FileSystems))
	for i := range s.FileSystems {
		f := &s.FileSystems[i]
		f.Targets, f.Recent, f.Transports = list(f.Targets), list(f.Recent), list(f.Transports)
		if f.Moves == nil {
			f.Moves = map[proxy.Cause]uint64{}
		}
	}
	return s
}

func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
