package driver

import (
	"cmp"
	"slices"

	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

// Overview is how this host's file systems, mount targets, relays and mounts are. It answers
// from memory and waits for nothing.
func (d *Driver) Overview() status.Snapshot {
	known := d.known.All()
	o := status.Snapshot{Host: d.host.name, Known: len(known)}
	if d.options.Misconfigured != nil {
		o.Trouble = append(o.Trouble, d.options.Misconfigured.Error())
	}
	home := d.home()
	for _, f := range d.usedFileSystems(known) {
		one := f.overview()
		one.Default = f == home
		o.FileSystems = append(o.FileSystems, one)
		o.Elsewhere = append(o.Elsewhere, f.usedElsewhereOnly(known)...)
	}
	for name, u := range d.uses.table.All() {
		k := known[name]
		o.Mounted = append(o.Mounted, status.Volume{
			Name: name, FileSystem: k.FileSystem, Since: u.Mounted, Mounts: u.Counts, Elsewhere: d.usedElsewhere(name, k), Trouble: d.ownTroubles(name, k),
		})
	}
	slices.SortFunc(o.Mounted, func(a, b status.Volume) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(o.Elsewhere, func(a, b status.Used) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.FileSystem, b.FileSystem))
	})
	return o
}

// usedElsewhereOnly are this file system's volumes that other hosts use and that are not mounted here,
// be they known here or not.
func (f *fileSystem) usedElsewhereOnly(known map[string]knowledge) []status.Used {
	var all []status.Used
	for name, hosts := range f.presence.usedByOthers() {
		if _, mounted := f.d.uses.table.Get(name); mounted && known[name].FileSystem == f.spec.String() {
			continue
		}
		if f.d.uses.has(name) && known[name].FileSystem == f.spec.String() {
			hosts = append([]string{f.d.host.name}, hosts...) // containers that go on here uncounted
		}
		all = append(all, status.Used{Name: name, FileSystem: f.spec.String(), By: hosts})
	}
	return all
}

// usedFileSystems are home and those of volumes that are known, in the order of their names.
func (d *Driver) usedFileSystems(known map[string]knowledge) []*fileSystem {
	used := map[string]bool{d.home().spec.String(): true}
	for _, k := range known {
		used[k.FileSystem] = true
	}
	// What is left out a Create named, and nothing came of that.
	all := slices.DeleteFunc(d.allFileSystems(), func(f *fileSystem) bool { return !used[f.spec.String()] })
	slices.SortFunc(all, func(a, b *fileSystem) int { return cmp.Compare(a.spec.String(), b.spec.String()) })
	return all
}

func (f *fileSystem) overview() status.FileSystem {
	var o status.FileSystem
	if group := f.knownTargets(); group != nil {
		o.GroupState = group.State()
	}
	o.FileSystem, o.Recoveries, o.Source = f.spec.String(), f.recoveries.Load(), f.source()
	if s := f.main().established(); s != nil {
		o.Connected, o.Since = true, s.since
	}
	if since, trouble := f.health(); trouble != nil {
		o.Trouble, o.Troubled = withAdvice(trouble), since
	}
	if f.spec.Kind != filesystem.Directory {
		o.Transports, o.Ended = f.transportsOverview()
	}
	return o
}

// transportsOverview are the root mounts, and the relays that have none since the last
// start: containers' mounts use those as well. What has ended of these is counted beside them.
func (f *fileSystem) transportsOverview() (all []status.Transport, ended *relay.Stats) {
	why := map[string]string{} // of relays, by where they listen
	for _, s := range f.sessions() {
		if s.path == viaRelay {
			why[s.serverNow().String()] = s.whyFixed()
			continue
		}
		all = append(all, status.Transport{Path: status.Direct, Why: s.whyFixed(), Target: f.targetInUse(s)})
	}
	running, ended := f.d.relays.of(f)
	for _, one := range running {
		traffic := one.Stats()
		all = append(all, status.Transport{
			Path: status.Relayed, Protection: one.protection.String(), Why: cmp.Or(one.whyOver(), why[one.addr.String()]), Target: one.Group.Current(), Listen: one.addr, Traffic: &traffic,
		})
	}
	slices.SortFunc(all, func(a, b status.Transport) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), a.Listen.Compare(b.Listen), a.Target.Addr.Compare(b.Target.Addr), cmp.Compare(a.Why, b.Why))
	})
	return all, ended
}
