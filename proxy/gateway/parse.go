package gateway

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

// ParseListen reads an address to listen on, "address:port". Without an address, or with
// "*", it is every address of this machine.
func ParseListen(text string) (netip.AddrPort, error) {
	whole := text
	for _, all := range []string{":", "*:"} {
		if port, found := strings.CutPrefix(text, all); found {
			whole = "[::]:" + port
		}
	}
	addr, err := netip.ParseAddrPort(whole)
	switch {
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("listen on %q: write address:port, such as 0.0.0.0:2049", text)
	case addr.Addr().IsMulticast():
		return netip.AddrPort{}, fmt.Errorf("listen on %q: that is no address of one machine", text)
	}
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), nil
}

// ParseNetwork reads a network of clients, "10.0.0.0/8", or the address of one.
func ParseNetwork(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("network %q: write address/bits, such as 10.0.0.0/8", text)
	case network.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("network %q: write it as an IPv4 network", text)
	case network != network.Masked():
		return netip.Prefix{}, fmt.Errorf("network %q: its address has bits beyond the first %d: write %s for the network or %s for the one address",
			text, network.Bits(), network.Masked(), network.Addr())
	}
	return network, nil
}

// ParsePeer reads the address of another gateway, "[zone=]address:port[,backup]". There is
// no usual port.
func ParsePeer(text string) (proxy.Target, error) {
	item, backup := strings.CutSuffix(strings.TrimSpace(text), ",backup")
	_, where, named := strings.Cut(item, "=")
	if !named {
		where = item
	}
	addr, err := netip.ParseAddrPort(where)
	if err != nil || addr.Port() == 0 {
		return proxy.Target{}, fmt.Errorf("peer %q: %q is not an address with a port; write [zone=]address:port[,backup]", text, where)
	}
	target := proxy.Target{Addr: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), Backup: backup}
	if named {
		if target, err = proxy.ParseTarget(text); err != nil {
			return proxy.Target{}, fmt.Errorf("peer: %w", err)
		}
	}
	return target, nil
}
