package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

const (
	// pingTimeout bounds the question whether one address answers. A mount
	// target in another zone answers within milliseconds; three lost SYNs take
	// 7 s, and then nothing would be left of a call's budget for another target.
	pingTimeout = 4 * time.Second
	// identityTimeout bounds the question who this host is, which AWS STS answers for a
	// role. It leaves half of what a call waits for a mount.
	identityTimeout = 5 * time.Second
	// resolveTimeout bounds the look-up of a server's name.
	resolveTimeout = 5 * time.Second
	// resolveAgain is how often a name is looked up again in the background.
	resolveAgain = time.Minute
	// describeAgain is how often AWS is asked again where an EFS file system's mount
	// targets are; describeSoon and describeAtMost bound the time to the next try after it
	// did not answer.
	describeAgain, describeSoon, describeAtMost = 5 * time.Minute, 15 * time.Second, 30 * time.Minute
)

// whereabouts is what was last heard of a file system's mount targets. It outlives
// restarts: a host that starts while AWS and DNS are dead still mounts.
type whereabouts struct {
	Targets []proxy.Target `json:"targets"`
	// Source is who told, Note why it was not a better one.
	Source string `json:"source"`
	Note   string `json:"note,omitempty"`
	// HomeZone and Region are where this host and the file system were then.
	HomeZone string    `json:"home_zone,omitempty"`
	Region   string    `json:"region,omitempty"`
	At       time.Time `json:"at"`
	partial  bool      // there may be more

	apiError error // what Note says, of an answer just heard
}

const (
	sourceSettings = "settings"
	sourceDNS      = cloud.SourceDNS
)

// mountTargets returns the file system's mount targets and their health. At first use
// they are those of an earlier run, if one knew them, else they are looked up.
func (f *fileSystem) mountTargets(ctx context.Context) (*proxy.Group, error) {
	if g := f.knownTargets(); g != nil {
		return g, nil
	}
	if !f.static() {
		if kept, ok := f.d.targets.Get(f.spec.String()); ok && len(kept.Targets) > 0 && f.spec.Kind == filesystem.EFS {
			return f.useTargets(kept, true), nil
		}
	}
	found, err := f.lookUpTargets(ctx)
	if err != nil {
		return nil, err
	}
	f.keep(found)
	return f.useTargets(found, false), nil
}

// knownTargets is mountTargets of a file system in use, else nil.
func (f *fileSystem) knownTargets() *proxy.Group {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.group
}

// useTargets makes the group, which is checked until the Driver closes. Old news are
// asked for again at once.
func (f *fileSystem) useTargets(found whereabouts, old bool) *proxy.Group {
	begin := f.position()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.group != nil {
		return f.group
	}
	g := proxy.NewGroup(proxy.GroupOptions{
		FileSystem: f.spec.String(), Home: cmp.Or(f.d.options.Zone, found.HomeZone), Return: f.d.options.Return, Check: f.check, Log: f.d.log,
		Begin: begin, Drained: f.d.drainedZones(),
	}, found.Targets)
	g.OnMove(f.moved)
	f.group, f.whereabouts = g, found
	f.d.spawn(func() { g.Run(f.d.life) })
	f.d.spawn(func() { f.watchDirect(g) })
	if !f.static() {
		f.d.spawn(func() { f.followTargets(g, old) })
	}
	return g
}

// check asks a mount target whether it serves, in the way in which it is used: a file
// system under TLS gets no byte in clear text.
func (f *fileSystem) check(ctx context.Context, addr netip.AddrPort) (time.Duration, error) {
	f.mu.Lock()
	client := f.tls
	f.mu.Unlock()
	if client == nil {
		return proxy.Ping(ctx, addr)
	}
	return client.Check(ctx, addr)
}

// static tells whether the mount targets come from the settings.
func (f *fileSystem) static() bool {
	return f.spec == f.d.options.FileSystem && len(f.d.options.Targets) > 0
}

// followTargets looks the mount targets up again and again, so that new, deleted and moved
// ones are noticed. What cannot be looked up now says nothing about them.
func (f *fileSystem) followTargets(g *proxy.Group, now bool) {
	every, most := resolveAgain, resolveAgain
	if f.spec.Kind == filesystem.EFS {
		every, most = describeAgain, describeAtMost
	}
	pause := every
	if now {
		pause = 0
	}
	for f.untilDue(jittered(pause)) {
		found, err := f.lookUpTargets(f.d.life)
		if f.d.life.Err() != nil {
			return
		}
		if err != nil {
			f.d.log.WithField("filesystem", f.spec).Debugf("look mount targets up again: %v", err)
			pause = min(max(2*pause, describeSoon), most)
			continue
		}
		pause = every
		found = f.complete(found)
		f.heard(found)
		f.keep(found)
		if found.HomeZone != "" {
			g.SetHome(found.HomeZone)
		}
		g.SetTargets(found.Targets)
	}
}

// complete adds to an answer what was known before, if it may lack something: not every name
// could be looked up, or DNS tells alone what the API told before.
func (f *fileSystem) complete(found whereabouts) whereabouts {
	f.mu.Lock()
	before := f.whereabouts
	f.mu.Unlock()
	if !found.partial && (found.Source != cloud.SourceDNS || before.Source != cloud.SourceAPI) {
		return found
	}
	for _, known := range before.Targets {
		if !slices.ContainsFunc(found.Targets, func(t proxy.Target) bool { return t.Addr == known.Addr }) {
			found.Targets = append(found.Targets, known)
		}
	}
	if !found.partial {
		found.Source = before.Source // the API's answer still holds
	}
	return found
}

// heard takes note of an answer, and of what is new in it.
func (f *fileSystem) heard(found whereabouts) {
	f.mu.Lock()
	before := f.whereabouts
	f.whereabouts = found
	f.mu.Unlock()
	log := f.d.log.WithField("filesystem", f.spec)
	if !sameTargets(before.Targets, found.Targets) {
		log.Infof("its mount targets are now %s (%s), before: %s", targetsText(found.Targets), found.Source, targetsText(before.Targets))
	}
	if found.Note != "" && before.Note == "" {
		log.Infof("its mount targets come from %s: %s", found.Source, found.Note)
	}
}

// source is who told where the mount targets are, and why nobody better did.
func (f *fileSystem) source() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.whereabouts.Note == "" {
		return f.whereabouts.Source
	}
	return f.whereabouts.Source + ": " + f.whereabouts.Note
}

func sameTargets(a, b []proxy.Target) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(t proxy.Target) bool { return !slices.Contains(b, t) })
}

func targetsText(targets []proxy.Target) string {
	words := make([]string, len(targets))
	for i, t := range targets {
		words[i] = t.String()
	}
	return strings.Join(words, ", ")
}

// keep remembers an answer over restarts.
func (f *fileSystem) keep(found whereabouts) {
	if f.spec.Kind != filesystem.EFS || f.static() {
		return
	}
	if err := f.d.targets.Put(f.spec.String(), found); err != nil {
		f.d.log.WithField("filesystem", f.spec).Errorf("remember its mount targets: %v", err)
	}
}

// untilDue pauses, less long if a mount target was lost meanwhile: perhaps it is no more. It
// reports whether the Driver still runs.
func (f *fileSystem) untilDue(pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-f.lost:
			if soon := jittered(describeSoon); soon < pause {
				timer.Reset(soon)
			}
		case <-f.d.life.Done():
			return false
		}
	}
}

// jittered spreads what a fleet of hosts would ask at the same moment: 80 to 120 %.
func jittered(d time.Duration) time.Duration { return d - d/5 + rand.N(2*d/5+1) }

// findServer returns the mount target in use if it answers; one that does not is
// left for the next.
func (f *fileSystem) findServer(ctx context.Context) (netip.AddrPort, error) {
	group, err := f.mountTargets(ctx)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var failures []error
	for range group.State().Targets {
		target := group.Current()
		err := askTarget(ctx, target, proxy.Ping)
		if err == nil {
			return target.Addr, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
		group.Failed(target, err)
	}
	return netip.AddrPort{}, oneLine(failures)
}

// question is how a mount target is asked whether it serves.
type question func(context.Context, netip.AddrPort) (time.Duration, error)

func askTarget(ctx context.Context, target proxy.Target, ask question) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	_, err := ask(ctx, target.Addr)
	if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, proxy.ErrIdentity) {
		return fmt.Errorf("mount target %s: %w (nothing within %v)", target, errSilent, pingTimeout)
	}
	return err
}

// someTarget asks the mount targets, the one in use first, until one serves. Nothing
// follows for the others: one identity that is refused is no news of a mount target.
func (f *fileSystem) someTarget(ctx context.Context, ask question) error {
	group, err := f.mountTargets(ctx)
	if err != nil {
		return err
	}
	targets := []proxy.Target{group.Current()}
	for _, t := range group.State().Targets {
		if t.Target != targets[0] {
			targets = append(targets, t.Target)
		}
	}
	var failures []error
	for _, target := range targets {
		err := askTarget(ctx, target, ask)
		if err == nil {
			return nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil || errors.Is(err, proxy.ErrIdentity) || errors.Is(err, proxy.ErrRefused) {
			break
		}
	}
	return oneLine(failures)
}

// oneLine joins errors into one line, keeping what they wrap.
func oneLine(errs []error) error {
	joined := errs[0]
	for _, err := range errs[1:] {
		joined = fmt.Errorf("%w, %w", joined, err)
	}
	return joined
}

func (f *fileSystem) lookUpTargets(ctx context.Context) (whereabouts, error) {
	found := whereabouts{At: time.Now().UTC().Truncate(time.Second)}
	if f.static() {
		found.Targets, found.Source, found.HomeZone = f.d.options.Targets, sourceSettings, f.d.homeZone(ctx)
		return found, nil
	}
	if f.spec.Kind == filesystem.EFS && f.d.options.Cloud != nil {
		told, err := f.d.options.Cloud.Targets(ctx, f.inCloud())
		found.Targets, found.Source, found.HomeZone = told.Targets, told.Source, told.HomeZone
		found.Region, _ = f.d.regionOf(ctx, f.spec) // without it a protected mount asks
		found.partial = told.Partial
		if told.APIError != nil {
			found.apiError, found.Note = told.APIError, told.APIError.Error()
		}
		return found, err
	}
	var err error
	found.Targets, err = f.resolve(ctx)
	found.Source = sourceDNS
	return found, err
}

// inCloud is the file system as AWS knows it.
func (f *fileSystem) inCloud() cloud.FileSystem {
	return cloud.FileSystem{ID: f.spec.ID, Region: cmp.Or(efs.RegionOf(f.spec.Host), f.d.options.Region)}
}

// resolve looks the server's name up.
func (f *fileSystem) resolve(ctx context.Context) ([]proxy.Target, error) {
	name, err := f.spec.ServerName(f.d.options.Region)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	targets := make([]proxy.Target, len(addresses))
	for i, address := range addresses {
		targets[i].Addr = netip.AddrPortFrom(address.Unmap(), f.spec.Port)
	}
	return targets, nil
}

// homeZone is this host's zone: of the settings, else of its metadata.
func (d *Driver) homeZone(ctx context.Context) string {
	if d.options.Zone != "" || d.options.Cloud == nil {
		return d.options.Zone
	}
	return d.options.Cloud.HomeZone(ctx)
}

// targetOf names the zone of an address, if it is known.
func (f *fileSystem) targetOf(server netip.AddrPort) proxy.Target {
	if group := f.knownTargets(); group != nil {
		for _, target := range group.State().Targets {
			if target.Addr == server {
				return target.Target
			}
		}
	}
	return proxy.Target{Addr: server}
}

// localAddress is this host's address on the way to a server. Nothing is sent:
// connecting a datagram socket only asks for the route.
func localAddress(server netip.AddrPort) (netip.Addr, error) {
	conn, err := net.Dial("udp", server.String())
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	return local.Addr(), err
}

func sourceOf(server netip.Addr, export string) string {
	if server.Is6() {
		return "[" + server.String() + "]:" + export
	}
	return server.String() + ":" + export
}

// targetInUse is where a session's requests go.
func (f *fileSystem) targetInUse(s *session) proxy.Target {
	if group := f.knownTargets(); s.path == viaRelay && group != nil {
		return group.Current()
	}
	return f.targetOf(s.serverNow())
}
