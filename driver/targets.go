package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

const (
	// pingTimeout bounds the question whether one address answers. A mount
	// target in another zone answers within milliseconds; three lost SYNs take
	// 7 s, and then nothing would be left of a call's budget for another target.
	pingTimeout = 4 * time.Second
	// resolveTimeout bounds the look-up of a server's name.
	resolveTimeout = 5 * time.Second
	// resolveAgain is how often a name is looked up again in the background.
	resolveAgain = time.Minute
)

// mountTargets returns the file system's mount targets and their health. At first use
// they are looked up; as long as this host has relayed mounts, they are also known from an
// earlier run.
func (f *fileSystem) mountTargets(ctx context.Context) (*proxy.Group, error) {
	if g := f.knownTargets(); g != nil {
		return g, nil
	}
	targets, err := f.lookUpTargets(ctx)
	if err != nil {
		return nil, err
	}
	return f.useTargets(targets), nil
}

// knownTargets is mountTargets of a file system in use, else nil.
func (f *fileSystem) knownTargets() *proxy.Group {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.group
}

// useTargets makes the group, which is checked until the Driver closes.
func (f *fileSystem) useTargets(targets []proxy.Target) *proxy.Group {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.group != nil {
		return f.group
	}
	g := proxy.NewGroup(proxy.GroupOptions{
		FileSystem: f.spec.String(), Home: f.d.options.Zone, Return: f.d.options.Return, Log: f.d.log,
	}, targets)
	g.OnMove(f.moved)
	f.group = g
	f.d.spawn(func() { g.Run(f.d.life) })
	f.d.spawn(func() { f.watchDirect(g) })
	if !f.static() {
		f.d.spawn(func() { f.keepTargets(g) })
	}
	return g
}

// static tells whether the mount targets come from the settings.
func (f *fileSystem) static() bool {
	return f.spec == f.d.options.FileSystem && len(f.d.options.Targets) > 0
}

// keepTargets follows the server's name to other addresses.
func (f *fileSystem) keepTargets(g *proxy.Group) {
	tick := time.NewTicker(resolveAgain)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-f.d.life.Done():
			return
		}
		// A name that cannot be looked up now says nothing about the addresses.
		if targets, err := f.lookUpTargets(f.d.life); err == nil {
			g.SetTargets(targets)
		}
	}
}

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
		ping, cancel := context.WithTimeout(ctx, pingTimeout)
		_, err := proxy.Ping(ping, target.Addr)
		cancel()
		if err == nil {
			return target.Addr, nil
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("mount target %s: %w (nothing within %v)", target, errSilent, pingTimeout)
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
		group.Failed(target, err)
	}
	return netip.AddrPort{}, oneLine(failures)
}

// oneLine joins errors into one line, keeping what they wrap.
func oneLine(errs []error) error {
	joined := errs[0]
	for _, err := range errs[1:] {
		joined = fmt.Errorf("%w, %w", joined, err)
	}
	return joined
}

func (f *fileSystem) lookUpTargets(ctx context.Context) ([]proxy.Target, error) {
	if f.static() {
		return f.d.options.Targets, nil
	}
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

// Drain leaves a zone's mount targets, or lets them be used again. It fails if no file
// system in use has that zone.
func (d *Driver) Drain(zone string, on bool) error {
	var failed error
	drained := false
	for _, f := range d.allFileSystems() {
		group := f.knownTargets()
		if group == nil || f.spec.Kind == filesystem.Directory {
			continue
		}
		if err := group.Drain(zone, on); err != nil {
			failed = err
		} else {
			drained = true
		}
	}
	switch {
	case drained:
		return nil
	case failed != nil:
		return failed
	}
	return errors.New("no file system with mount targets is in use on this host")
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
