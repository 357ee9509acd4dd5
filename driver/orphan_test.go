package driver_test

import (
	"net/netip"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
)

// A lease is given back on this: whatever may be a client of the relay has to count as one.
func TestKernelsTransportMayBeClientOfARelay(t *testing.T) {
	relay := netip.MustParseAddrPort("127.0.0.1:20490")
	for _, row := range []struct {
		name string
		is   sunrpc.Transport
		want bool
	}{
		{"that is connected to it", sunrpc.Transport{Server: relay.Addr(), ServerPort: 20490, Connected: true}, true},
		{"that has lost its connection, and with it its port", sunrpc.Transport{Server: relay.Addr()}, true},
		{"that is connected to another relay: no", sunrpc.Transport{Server: relay.Addr(), ServerPort: 20491, Connected: true}, false},
		{"that goes to a mount target: no", sunrpc.Transport{Server: netip.MustParseAddr("10.0.1.5"), ServerPort: 20490, Connected: true}, false},
		{"that goes to a mount target, and has no connection: no", sunrpc.Transport{Server: netip.MustParseAddr("10.0.1.5")}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := driver.MayBeClientOf(row.is, relay); got != row.want {
				t.Errorf("got %v, want %v", got, row.want)
			}
		})
	}
}
