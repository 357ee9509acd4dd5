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
	LocalPort  uint16
	// LastUsed is when a request last used it, in the kernel's own unit (jiffies):
	// good for comparing only.
	LastUsed uint64
}

// parse takes what the kernel says of a connected transport: lines of key=value
// (rpc_sysfs_xprt_info_show). Keys that are not known are of newer kernels.
func (t *Transport) parse(info string) error {
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
			t.LocalPort = uint16(value)
		case "dst_port":
			t.ServerPort = uint16(value)
		}
	}
	t.Connected = t.LocalPort != 0
	return nil
}
