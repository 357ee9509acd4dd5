package driver

import (
	"cmp"
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
)

const (
	// unknownTimeout bounds Get of a name this host has not heard of: Docker
	// asks every driver for each volume without a driver, so it must be short.
	unknownTimeout = 500 * time.Millisecond
	// listTimeout is how long List waits for news of other hosts' volumes.
	listTimeout = 20 * time.Millisecond
)

// Summary is a volume in a list.
type Summary struct {
	Name       string
	Mountpoint string
}

// listCache keeps the list between changes: with 10,000 volumes making it costs
// more than sending it.
type listCache struct {
	mu         sync.Mutex // guards the following fields
	generation uint64
	built      bool
	volumes    []Summary
}

func (l *listCache) invalidate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.built = false
	l.generation++
}

// List returns all volumes that this host knows of, sorted by name, and a
// generation that changes whenever the list does. The slice is shared: callers do
// not change it. It waits a moment for news of the home file system, never for a dead
// one.
func (d *Driver) List(ctx context.Context) (volumes []Summary, generation uint64) {
	d.refreshSoon(ctx, listTimeout)
	d.list.mu.Lock()
	defer d.list.mu.Unlock()
	if !d.list.built {
		all := d.known.All()
		d.list.volumes = make([]Summary, 0, len(all))
		for name := range all {
			d.list.volumes = append(d.list.volumes, Summary{Name: name, Mountpoint: d.mountpoint(name)})
		}
		slices.SortFunc(d.list.volumes, func(a, b Summary) int { return cmp.Compare(a.Name, b.Name) })
		d.list.built = true
	}
	return d.list.volumes, d.list.generation
}

// Info is all about one volume.
type Info struct {
	Name       string
	Mountpoint string
	Created    time.Time // zero if not known
	Status     map[string]any
}

// Get returns a volume from what this host durably knows, without waiting for
// any file system. Only a name that this host has not heard of is looked up in the
// home catalogue, for half a second at most.
func (d *Driver) Get(ctx context.Context, name string) (Info, error) {
	if err := catalog.CheckName(name); err != nil {
		return Info{}, fail("get", name, catalog.ErrNotFound) // nothing can have that name
	}
	k, ok := d.known.Get(name)
	if !ok {
		var err error
		if k, err = d.lookUpBriefly(ctx, name); err != nil {
			return Info{}, fail("get", name, err)
		}
	}
	return Info{Name: name, Mountpoint: d.mountpoint(name), Created: k.Record.Created, Status: d.status(name, k)}, nil
}

func (d *Driver) lookUpBriefly(ctx context.Context, name string) (knowledge, error) {
	if d.options.Misconfigured != nil {
		return knowledge{}, catalog.ErrNotFound
	}
	if d.amnesia.Load() {
		return d.discover(ctx, name) // an error other than "no such volume" is none
	}
	if _, trouble := d.home().health(); errors.Is(trouble, errSilent) {
		return knowledge{}, fmt.Errorf("%w: not known on this host, and %w", catalog.ErrNotFound, trouble)
	}
	ctx, cancel := context.WithTimeout(ctx, unknownTimeout)
	defer cancel()
	k, err := d.discover(ctx, name)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		err = fmt.Errorf("%w: not known on this host, and %w", catalog.ErrNotFound, err)
	}
	return k, err
}

// Mountpoint returns where a volume is or would be mounted.
func (d *Driver) Mountpoint(ctx context.Context, name string) (string, error) {
	info, err := d.Get(ctx, name)
	return info.Mountpoint, err
}

// status is what an operator asks for, as docker volume inspect shows it.
func (d *Driver) status(name string, k knowledge) map[string]any {
	status := map[string]any{
		"filesystem": k.FileSystem,
		"path":       k.Record.Path,
		"options":    optionTexts(k.Record.Options),
		"created_by": k.Record.CreatedBy,
		"host":       d.host.name,
		"mounted":    false,
	}
	if k.Record.Path != "" && !k.Record.Made {
		status["adopted"] = true
	}
	if u, ok := d.uses.table.Get(name); ok && u.Boot == d.host.boot {
		status["mounted"] = true
		status["mounted_since"] = u.Mounted.Format(time.RFC3339)
		status["mountpoint"] = d.mountpoint(name)
		status["mounts"] = u.Counts
		if u.total() > 0 {
			status["in_use_since"] = u.Since.Format(time.RFC3339)
		}
	}
	d.addTransport(status, k)
	if f, err := d.fileSystemOf(k); err == nil {
		if text := d.leaseText(f, k.Record); text != "" {
			status["lease"] = text
		}
	}
	d.addHosts(status, name, k)
	if trouble := d.troublesOf(name, k); len(trouble) > 0 {
		status["trouble"] = trouble
	}
	return status
}

// addHosts tells which hosts use a volume, the others as they were when last looked at. Who
// asks has them looked at again, though not for this answer.
func (d *Driver) addHosts(status map[string]any, name string, k knowledge) {
	var hosts []string
	if u, _ := d.uses.current(name); u.Boot == d.host.boot && u.total() > 0 {
		hosts = append(hosts, usedBy(d.host.name, catalog.HostUse{Since: u.Since, ReadOnly: u.ReadOnly}))
	}
	if f, err := d.fileSystemOf(k); err == nil {
		for _, other := range f.presence.usedElsewhere(name) {
			hosts = append(hosts, usedBy(other.Name, other.Volumes[name]))
		}
		d.lookSoon(f)
	}
	if len(hosts) > 0 {
		status["used_by"] = hosts
	}
}

// usedElsewhere are the names of the other hosts that use a volume.
func (d *Driver) usedElsewhere(name string, k knowledge) []string {
	f, err := d.fileSystemOf(k)
	if err != nil {
		return nil
	}
	var hosts []string
	for _, other := range f.presence.usedElsewhere(name) {
		hosts = append(hosts, other.Name)
	}
	return hosts
}

func usedBy(host string, use catalog.HostUse) string {
	text := host + " since " + use.Since.Format(time.RFC3339)
	if use.ReadOnly {
		text += ", read-only"
	}
	return text
}

// lookSoon looks at the other hosts' entries, in the background.
func (d *Driver) lookSoon(f *fileSystem) {
	if d.options.Misconfigured != nil || !f.reachable() || !f.presence.stale() {
		return
	}
	d.spawn(func() {
		if err := f.presence.lookNow(d.life, lookAgain); err != nil && d.life.Err() == nil {
			d.log.WithField("filesystem", f.spec).Warnf("which host uses what: %v", err)
		}
	})
}

func (d *Driver) addTransport(status map[string]any, k knowledge) {
	f, err := d.fileSystemOf(k)
	if err != nil {
		return
	}
	t := f.mountedBy(k.Record)
	if t == nil {
		return
	}
	s := t.established()
	if s == nil {
		return
	}
	if f.spec.Kind == filesystem.Directory {
		status["transport"] = "local directory"
		return
	}
	p := f.protectionFor(k.Record)
	status["transport"] = transportText(s, p)
	if p.AccessPoint != "" {
		status["access_point"] = p.AccessPoint
	}
	status["nfs_client"] = t.identity(s.path)
	if s.path == viaRelay {
		status["relay"] = s.serverNow().String()
	}
	if source := f.source(); source != "" {
		status["mount_targets_from"] = source
	}
	target := f.targetInUse(s)
	status["mount_target"] = target.Addr.String()
	if target.Zone != "" {
		status["zone"] = target.Zone
	}
	if why := s.whyFixed(); why != "" {
		status["transport_note"] = why
	}
}

// transportText tells how the kernel's requests travel, and in FIPS mode by whose
// cryptography (go.dev/doc/security/fips140).
func transportText(s *session, p protection) string {
	text := "NFSv4.1, " + s.path
	if p.TLS {
		text += ", TLS"
		if fips140.Enabled() {
			text += " (FIPS 140-3)"
		}
	}
	if p.IAM {
		text += ", IAM"
	}
	return text
}

func (d *Driver) troublesOf(name string, k knowledge) []string {
	var troubles []string
	if d.options.Misconfigured != nil {
		troubles = append(troubles, d.options.Misconfigured.Error())
	}
	troubles = append(troubles, d.ownTroubles(name, k)...)
	if f, err := d.fileSystemOf(k); err == nil {
		if since, trouble := f.health(); trouble != nil {
			troubles = append(troubles, fmt.Sprintf("since %s: %s", since.UTC().Format(time.RFC3339), withAdvice(trouble)))
		}
	}
	return troubles
}

// ownTroubles is what is wrong with a volume, and not with its file system.
func (d *Driver) ownTroubles(name string, k knowledge) []string {
	var troubles []string
	if k.Trouble != "" {
		troubles = append(troubles, k.Trouble)
	}
	if k.Record.State == catalog.Removing {
		troubles = append(troubles, "its removal was not finished: run docker volume rm again")
	}
	if t := d.trouble(name); t != "" {
		troubles = append(troubles, t)
	}
	if why := d.whySilent(name, k); why != "" {
		troubles = append(troubles, why)
	}
	for _, why := range []string{d.whyUntold(name, k), d.whyShut(name, k)} {
		if why != "" {
			troubles = append(troubles, why)
		}
	}
	if _, err := d.fileSystemOf(k); err != nil {
		troubles = append(troubles, err.Error())
	}
	return troubles
}

// whyUntold is why other hosts do not know that a volume is used here.
func (d *Driver) whyUntold(name string, k knowledge) string {
	f, err := d.fileSystemOf(k)
	if err != nil {
		return ""
	}
	why := f.presence.whyUntold(name)
	if why == nil || !d.uses.has(name) {
		return ""
	}
	may := "remove"
	if f.isFenced(k.Record) {
		may = "take"
	}
	return fmt.Sprintf("other hosts cannot be told that it is in use here, and may %s it: %v", may, why)
}

// withAdvice tells an error, and what to do.
func withAdvice(trouble error) string {
	text := trouble.Error()
	if hint := advice(trouble); hint != "" {
		text += "; " + hint
	}
	return text
}

func optionTexts(o catalog.Options) map[string]string {
	texts := map[string]string{"access": o.Access, "remove": o.Remove, "via": o.Via}
	for key, text := range map[string]string{
		"uid": idText(o.UID), "gid": idText(o.GID), "mode": modeText(o.Mode), "nfs": o.NFS.String(),
		"role": o.Role, "accesspoint": o.AccessPoint,
	} {
		if text != "" {
			texts[key] = text
		}
	}
	if o.ReadOnly {
		texts["readonly"] = "true"
	}
	if o.TLS {
		texts["tls"] = onOff(o.TLS)
	}
	if o.IAM {
		texts["iam"] = onOff(o.IAM)
	}
	return texts
}
