package main

import (
	"net/http"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/gateway"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/web"
)

// pagesOf has a gateway's metrics and status page, which are those of the plugin.
func pagesOf(g *gateway.Gateway, log logrus.FieldLogger) http.Handler {
	return web.Handler(func() status.Snapshot { return snapshotOf(g.Status()) }, log)
}

// snapshotOf shows a gateway as one file system with a relay at each address. What they
// carry is counted together, at the first.
func snapshotOf(s gateway.Status) status.Snapshot {
	g := s.Gateway
	f := status.FileSystem{GroupState: g.Targets, Connected: true, Since: g.Since}
	for i, address := range slices.Concat(g.Listen, g.PeerListen) {
		t := status.Transport{Path: status.Relayed, Target: g.Targets.Current, Listen: address}
		if i == 0 {
			t.Traffic = &g.Relay
		}
		if i >= len(g.Listen) {
			t.Why = "for peers"
		}
		f.Transports = append(f.Transports, t)
	}
	snapshot := status.Snapshot{Version: s.Version, Host: s.Host, Since: g.Since, FileSystems: []status.FileSystem{f}}
	if g.Certificate != nil {
		snapshot.Trouble = g.Certificate.Trouble(time.Now())
	}
	return snapshot
}
