package status

import (
	"encoding/json"
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
	// Known is how many volumes this host knows of. A gateway knows of none.
	Known int `json:"volumes"`
	// Mounted are the volumes that are mounted on this host.
	Mounted []Volume `json:"mounted"`
	// Elsewhere are the volumes that only other hosts use, as far as is known.
	Elsewhere []Used `json:"used_elsewhere"`
}

// FileSystem is a file system with its mount targets, and the ways to it.
type FileSystem struct {
	// GroupState says where it is, where else it could be, and where it was. A file system without
	// mount targets, such as a local directory, has a name only.
	proxy.GroupState
	// Source is who told where the mount targets are, and why nobody better did.
	Source string `json:"mount_targets_from,omitempty"`
	// Default tells whether it is that of volumes that name none.
	Default bool `json:"home"`
	// Connected tells whether it is mounted, Since since when.
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since,omitzero"`
	// Trouble is what is wrong, Troubled since when.
	Trouble    string      `json:"trouble,omitempty"`
	Troubled   time.Time   `json:"trouble_since,omitzero"`
	Transports []Transport `json:"transports"`
	// Ended is what relays have counted that are no more, such as those of exclusive volumes; nil if there
	// were none. Counters are summed over it and the transports, and do not go back.
	Ended *relay.Stats `json:"ended_relays,omitempty"`
	// Recoveries are moves to a mount target that did not know this host's client: locks
	// may have been lost.
	Recoveries uint64 `json:"recoveries,omitempty"`
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
	// Protection is what the bytes have on their way, in the words of the volume options;
	// empty: they go in the clear.
	Protection string `json:"protection,omitempty"`
	// Why it has this path or stays at its mount target, if that was not simply asked for.
	Why string `json:"why,omitempty"`
	// Target is the mount target that it uses.
	Target proxy.Target `json:"target"`
	// Listen is where a relay listens.
	Listen netip.AddrPort `json:"listen,omitzero"`
	// Traffic is a relay's; nil for a direct path, whose bytes the kernel counts.
	Traffic *relay.Stats `json:"traffic,omitempty"`
}

// Volume is a volume that is mounted on this host.
type Volume struct {
	Name       string    `json:"volume"`
	FileSystem string    `json:"filesystem"`
	Since      time.Time `json:"since,omitzero"`
	// Mounts are who holds it, by mount ID, and how often.
	Mounts map[string]int `json:"mounts"`
	// Elsewhere are the other hosts that use it, as far as is known.
	Elsewhere []string `json:"elsewhere,omitempty"`
	// Trouble is what is wrong with it, and not with its file system.
	Trouble []string `json:"trouble,omitempty"`
}

// Used is a volume that other hosts use, and that is not mounted on this one.
type Used struct {
	Name       string `json:"volume"`
	FileSystem string `json:"filesystem"`
	// By are the names of those hosts.
	By []string `json:"used_by"`
}

// Uses is how many uses of the volume there are.
func (v Volume) Uses() int {
	uses := 0
	for _, n := range v.Mounts {
		uses += n
	}
	return uses
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
		if f.Silent() {
			troubles = append(troubles, fmt.Sprintf("file system %s: no mount target answers: %s", f.FileSystem, f.reasons()))
		}
	}
	for _, v := range s.Mounted {
		for _, trouble := range v.Trouble {
			troubles = append(troubles, fmt.Sprintf("volume %s: %s", v.Name, trouble))
		}
	}
	return troubles
}

// Silent tells whether there are mount targets and all of them fail.
func (f FileSystem) Silent() bool {
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

// JSON is the snapshot as programs read it.
func (s Snapshot) JSON() ([]byte, error) {
	text, err := json.MarshalIndent(s.lists(), "", "  ")
	return append(text, '\n'), err
}

// lists makes empty lists of those that are not there, so that programs that read the
// JSON can go through them.
func (s Snapshot) lists() Snapshot {
	s.Trouble = list(s.Trouble)
	s.FileSystems = slices.Clone(list(s.FileSystems))
	for i := range s.FileSystems {
		f := &s.FileSystems[i]
		f.Targets, f.Recent, f.Transports = list(f.Targets), list(f.Recent), list(f.Transports)
		if f.Moves == nil {
			f.Moves = map[proxy.Cause]uint64{}
		}
	}
	s.Mounted = slices.Clone(list(s.Mounted))
	for i := range s.Mounted {
		if s.Mounted[i].Mounts == nil {
			s.Mounted[i].Mounts = map[string]int{}
		}
	}
	s.Elsewhere = slices.Clone(list(s.Elsewhere))
	for i := range s.Elsewhere {
		s.Elsewhere[i].By = list(s.Elsewhere[i].By)
	}
	return s
}

func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
