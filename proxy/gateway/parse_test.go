package gateway_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/gateway"
)

func TestWhatPeopleWriteIsReadAs(t *testing.T) {
	listen := func(text string) (fmt.Stringer, error) { return gateway.ParseListen(text) }
	network := func(text string) (fmt.Stringer, error) { return gateway.ParseNetwork(text) }
	peer := func(text string) (fmt.Stringer, error) { return gateway.ParsePeer(text) }
	for _, row := range []struct {
		text  string
		parse func(string) (fmt.Stringer, error)
		want  string // empty: an error with says
		says  string
	}{
		{"10.0.0.1:2049", listen, "10.0.0.1:2049", ""},
		{":2049", listen, "[::]:2049", ""},
		{"*:2049", listen, "[::]:2049", ""},
		{"[::1]:2049", listen, "[::1]:2049", ""},
		{"[::ffff:10.0.0.1]:2049", listen, "10.0.0.1:2049", ""},
		{"10.0.0.1", listen, "", "write address:port"},
		{"10.0.0.1:nfs", listen, "", "write address:port"},
		{"10.0.0.1:65536", listen, "", "write address:port"},
		{"gateway.example.com:2049", listen, "", "write address:port"},
		{"224.0.0.1:2049", listen, "", "no address of one machine"},
		{"", listen, "", "write address:port"},
		{"10.0.0.0/8", network, "10.0.0.0/8", ""},
		{"10.0.0.7", network, "10.0.0.7/32", ""},
		{"fd00::/8", network, "fd00::/8", ""},
		{"::ffff:10.0.0.7", network, "10.0.0.7/32", ""},
		{"10.0.0.7/8", network, "", "write 10.0.0.0/8 for the network or 10.0.0.7 for the one address"},
		{"10.0.0.0/33", network, "", "write address/bits"},
		{"10.0.0", network, "", "write address/bits"},
		{"::ffff:10.0.0.0/104", network, "", "as an IPv4 network"},
		{"fe80::1%eth0", network, "", "write address/bits"},
		{"192.0.2.1:20490", peer, "192.0.2.1:20490", ""},
		{"aws=192.0.2.1:20490", peer, "aws=192.0.2.1:20490", ""},
		{"aws=[2001:db8::1]:20490,backup", peer, "aws=[2001:db8::1]:20490", ""},
		{"192.0.2.1", peer, "", `"192.0.2.1" is not an address with a port`},
		{"aws=192.0.2.1", peer, "", `"192.0.2.1" is not an address with a port`},
		{"192.0.2.1:0", peer, "", "not an address with a port"},
		{"=192.0.2.1:20490", peer, "", "not a zone's name"},
		{"aws=192.0.2.1:20490,bckup", peer, "", "not an address with a port"},
	} {
		t.Run(row.text, func(t *testing.T) {
			got, err := row.parse(row.text)
			if row.want == "" {
				if err == nil || !strings.Contains(err.Error(), row.says) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v, %v; want %q", got, err, row.says)
				}
			} else if err != nil || got.String() != row.want {
				t.Errorf("%v, %v; want %s", got, err, row.want)
			}
		})
	}
	if target, err := gateway.ParsePeer("192.0.2.1:20490,backup"); err != nil || !target.Backup {
		t.Errorf("%v, %v", target, err)
	}
}

// What is read can be written and read again, and is never what cannot be used.
func FuzzWhatPeopleWrite(f *testing.F) {
	for _, text := range []string{"10.0.0.1:2049", "*:1", ":0", "[::1%lo]:2", "10.0.0.0/8", "::/0", "a=1.2.3.4:5,backup", "a=[::1]:5", ",backup", "=", "%"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if addr, err := gateway.ParseListen(text); err == nil {
			if again, err := gateway.ParseListen(addr.String()); err != nil || again != addr {
				t.Errorf("listen %q: %s, then %s, %v", text, addr, again, err)
			}
		}
		if network, err := gateway.ParseNetwork(text); err == nil {
			if again, err := gateway.ParseNetwork(network.String()); err != nil || again != network || network != network.Masked() || network.Addr().Is4In6() {
				t.Errorf("network %q: %s, then %s, %v", text, network, again, err)
			}
		}
		if peer, err := gateway.ParsePeer(text); err == nil {
			backup := peer.Backup
			if again, err := gateway.ParsePeer(peer.String()); err != nil || again.Addr != peer.Addr || again.Zone != peer.Zone || peer.Addr.Port() == 0 || backup != strings.HasSuffix(strings.TrimSpace(text), ",backup") {
				t.Errorf("peer %q: %+v, then %+v, %v", text, peer, again, err)
			}
		}
	})
}

func TestTargetsAreRefusedAtTheStartThat(t *testing.T) {
	target := func(zone, addr string) proxy.Target {
		return proxy.Target{Zone: zone, Addr: netip.MustParseAddrPort(addr)}
	}
	for _, row := range []struct {
		name    string
		targets []proxy.Target
		home    string
		says    string
	}{
		{"are none", nil, "", "no target is given"},
		{"are one zone twice", []proxy.Target{target("a", "10.0.1.5:2049"), target("a", "10.0.2.5:2049")}, "", "zone a is given twice"},
		{"are one address twice", []proxy.Target{target("a", "10.0.1.5:2049"), target("b", "10.0.1.5:2049")}, "", "address 10.0.1.5:2049 is given twice"},
		{"are everybody", []proxy.Target{target("a", "0.0.0.0:2049")}, "", "nobody can be reached at that address"},
		{"are a multicast group", []proxy.Target{target("a", "224.0.0.1:2049")}, "", "nobody can be reached at that address"},
		{"are no address", []proxy.Target{{Zone: "a"}}, "", "nobody can be reached at that address"},
		{"are not in the home zone", []proxy.Target{target("a", "10.0.1.5:2049"), target("b", "10.0.2.5:2049")}, "c", "home zone c: no target is there, the zones are: a, b"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if _, err := gateway.New(gateway.Options{Targets: row.targets, Home: row.home}); err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("%v, want %q", err, row.says)
			}
		})
	}
}
