package driver

import (
	"cmp"
	"slices"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
)

// Overview is how this host's file systems and mounts are.
type Overview struct {
	Host        string               `json:"host"`
	Volumes     int                  `json:"volumes"`
	Settings    string               `json:"settings_error,omitempty"`
	FileSystems []FileSystemOverview `json:"filesystems"`
	Mounted     []MountOverview      `json:"mounted"`
}

// FileSystemOverview is how one file system is.
type FileSystemOverview struct {
	FileSystem  string    `json:"filesystem"`
	Home        bool      `json:"home"`
	Connected   bool      `json:"connected"`
	MountTarget string    `json:"mount_target,omitempty"`
	Trouble     string    `json:"trouble,omitempty"`
	Since       time.Time `json:"since,omitzero"`
	// Recoveries are moves to a mount target that did not know this host's client: locks
	// may have been lost.
	Recoveries uint64 `json:"recoveries,omitempty"`
}

// MountOverview is a volume mounted on this host.
type MountOverview struct {
	Volume  string         `json:"volume"`
	Since   time.Time      `json:"since"`
	Mounts  map[string]int `json:"mounts"`
	Trouble []string       `json:"trouble,omitempty"`
}

// Healthy tells whether there is no trouble anywhere.
func (o Overview) Healthy() bool {
	return o.Settings == "" &&
		!slices.ContainsFunc(o.FileSystems, func(f FileSystemOverview) bool { return f.Trouble != "" }) &&
		!slices.ContainsFunc(o.Mounted, func(m MountOverview) bool { return len(m.Trouble) > 0 })
}

// Overview answers from memory and waits for nothing.
func (d *Driver) Overview() Overview {
	known := d.known.All()
	o := Overview{Host: d.host.name, Volumes: len(known)}
	if d.options.Misconfigured != nil {
		o.Settings = d.options.Misconfigured.Error()
	}
	home := d.home()
	used := map[string]bool{home.spec.String(): true}
	for _, k := range known {
		used[k.FileSystem] = true
	}
	for _, f := range d.allFileSystems() {
		if !used[f.spec.String()] {
			continue // a Create named it, and nothing came of that
		}
		one := FileSystemOverview{FileSystem: f.spec.String(), Home: f == home, Recoveries: f.recoveries.Load()}
		if s := f.main().established(); s != nil {
			one.Connected, one.Since = true, s.since
			if f.spec.Kind != filesystem.Directory {
				one.MountTarget = f.targetInUse(s).String()
			}
		}
		if since, trouble := f.health(); trouble != nil {
			one.Trouble, one.Since = trouble.Error(), since
		}
		o.FileSystems = append(o.FileSystems, one)
	}
	slices.SortFunc(o.FileSystems, func(a, b FileSystemOverview) int { return cmp.Compare(a.FileSystem, b.FileSystem) })
	for name, u := range d.uses.table.All() {
		o.Mounted = append(o.Mounted, MountOverview{
			Volume: name, Since: u.Mounted, Mounts: u.Counts, Trouble: d.troublesOf(name, known[name]),
		})
	}
	slices.SortFunc(o.Mounted, func(a, b MountOverview) int { return cmp.Compare(a.Volume, b.Volume) })
	return o
}
