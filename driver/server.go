package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

const (
	// pingTimeout bounds the question whether one address answers. A mount
	// target in another zone answers within milliseconds; three lost SYNs take
	// 7 s, and then nothing would be left of a call's budget for another target.
	pingTimeout = 4 * time.Second
	// resolveTimeout bounds the look-up of a server's name.
	resolveTimeout = 5 * time.Second
)

// findServer returns the first address that answers: of the static mount
// targets, the home zone's first, or of the server's name.
func (f *fileSystem) findServer(ctx context.Context) (netip.AddrPort, error) {
	targets, err := f.targets(ctx)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var failures []error
	for _, target := range targets {
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

func (f *fileSystem) targets(ctx context.Context) ([]proxy.Target, error) {
	if f == f.d.home() && len(f.d.options.Targets) > 0 {
		return proxy.HomeFirst(f.d.options.Targets, f.d.options.Zone), nil
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
