package sunrpc

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Transport is one connection of the kernel's RPC client.
type Transport struct {
	// Name is its place in the table, "switch-0/xprt-0-tcp". A name may be used
	// again after the transport has ended.
	Name   string
	Server netip.Addr
	// Connected tells whether the following are known.
	Connected  bool
	ServerPort uint16
	Local      netip.AddrPort
	// LastUsed is when a request last used it, in the kernel's own unit (jiffies):
	// good for comparing only.
	LastUsed uint64
}

// parse takes what the kernel says of a connected transport: its own address, and lines
// of key=value (rpc_sysfs_xprt_srcaddr_show, rpc_sysfs_xprt_info_show). Keys that are not known are of newer kernels.
func (t *Transport) parse(local, info string) error {
	address, err := netip.ParseAddr(strings.TrimRight(local, "\n\x00"))
	if err != nil {
		return fmt.Errorf("transport %s: srcaddr: %w", t.Name, err)
	}
	for line := range strings.Lines(info) {
		key, text, _ := strings.Cut(strings.TrimRight(line, "\n\x00"), "=")
		bits := 16
		switch key {
		case "last_used":
			bits = 64
		case "src_port", "dst_port":
		default:
			continue
		}
		value, err := strconv.ParseUint(text, 10, bits)
		if err != nil {
			return fmt.Errorf("transport %s: %s=%q: %w", t.Name, key, text, err)
		}
		switch key {
		case "last_used":
			t.LastUsed = value
		case "src_port":
			t.Local = netip.AddrPortFrom(address.Unmap(), uint16(value))
		case "dst_port":
			t.ServerPort = uint16(value)
		}
	}
	t.Connected = t.Local.Port() != 0
	return nil
}
