package main

import (
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/gateway"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/web"
)

// pagesOf has a gateway's metrics and status page, which are those of the plugin.
func pagesOf(g *gateway.Gateway, log logrus.FieldLogger) http.Handler {
	host, _ := os.Hostname() // without a name it goes as well
	return web.Handler(func() status.Snapshot {
		s := snapshotOf(g.Status())
		s.Host = host
		return s
	}, log)
}

// snapshotOf shows a gateway as one file system with a relay at each address. What they
// carry is counted together, at the first.
func snapshotOf(s gateway.Status) status.Snapshot {
	g := s.Gateway
	f := status.FileSystem{GroupState: g.Targets, Default: true, Connected: true, Since: g.Since}
	for i, address := range slices.Concat(g.Listen, g.PeerListen) {
		t := status.Transport{Path: status.Relayed, Target: g.Targets.Current, Listen: address}
		if i == 0 {
			t.Traffic = &g.Relay
		}
		f.Transports = append(f.Transports, t)
	}
	snapshot := status.Snapshot{Version: s.Version, Since: g.Since, FileSystems: []status.FileSystem{f}}
	if g.Certificate != nil {
		snapshot.Trouble = g.Certificate.Trouble(time.Now())
	}
	return snapshot
}
