package web_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func target(zone, addr string) proxy.Target {
	return proxy.Target{Zone: zone, Addr: netip.MustParseAddrPort(addr)}
}

// filled is a snapshot of a plugin in which there is something of everything: a zone
// that was lost, one that is drained, a relay, a steered path, a local directory.
func filled(now time.Time) status.Snapshot {
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	a, b, c := target("eu-west-1a", "10.0.1.5:2049"), target("eu-west-1b", "10.0.2.5:2049"), target("eu-west-1c", "10.0.3.5:2049")
	c.Backup = true
	gone := target("eu-west-1d", "10.0.4.5:2049")
	return status.Snapshot{
		Version: "v1.2.3", Host: "host-a", Since: ago(26 * time.Hour),
		Trouble: []string{"settings: EFS_REMOVE \"nothing\": write keep, trash or delete"},
		FileSystems: []status.FileSystem{{
			GroupState: proxy.GroupState{
				FileSystem: "fs-0123456789abcdef0", Home: "eu-west-1a", Current: b,
				Targets: []proxy.TargetState{
					{Target: b, InUse: true, Health: proxy.Up, Since: ago(25 * time.Hour), RTT: 1240 * time.Microsecond, Checked: ago(3 * time.Second), Checks: 18720, Failures: 2},
					{
						Target: a, Health: proxy.Down, Since: ago(4 * time.Minute), RTT: 610 * time.Microsecond, Checked: ago(time.Second), Checks: 18768, Failures: 51,
						Why: "dial tcp 10.0.1.5:2049: connect: connection timed out",
					},
					{Target: c, Drained: true, Health: proxy.Unknown, Since: ago(26 * time.Hour)},
				},
				Moves: map[proxy.Cause]uint64{proxy.CauseTimeout: 2, proxy.CauseHome: 1},
				Recent: []proxy.Move{
					{At: ago(4 * time.Minute), From: a, To: b, Cause: proxy.CauseTimeout, Why: "nothing was acknowledged for 2.1 s, and a check was not answered within 1 s"},
					{At: ago(5 * time.Hour), From: b, To: a, Cause: proxy.CauseHome, Why: "the home zone was up for 10 minutes"},
					{At: ago(7 * time.Hour), From: a, To: b, Cause: proxy.CauseTimeout, Why: "nothing was acknowledged for 2.3 s, and a check was not answered within 1 s"},
				},
			},
			Connected: true, Since: ago(25 * time.Hour), Recoveries: 2,
			Transports: []status.Transport{
				{
					Path: status.Relayed, Why: "the kernel's direct mount cannot be moved to another zone", Target: b, Listen: netip.MustParseAddrPort("127.0.0.1:40103"),
					Traffic: &relay.Stats{
						Conns: 3, Held: 1, Ready: 2, Limit: 4096, Accepted: 17, NotAdmitted: 4, Shed: 1, Moved: 6, Lost: 5,
						Targets: []relay.TargetStats{
							{Target: a, Out: 5 << 30, In: 700 << 20, Retransmits: 88, RTT: 600 * time.Microsecond},
							{Target: b, Conns: 2, Out: 1536, In: 3 << 40, RTT: 1200 * time.Microsecond},
							{Target: gone, Out: 12, In: 34},
						},
					},
				},
				{
					Path: status.Relayed, Why: "encryption in transit", Target: b, Listen: netip.MustParseAddrPort("127.0.0.1:40104"),
					Traffic: &relay.Stats{Conns: 1, Limit: 4096, Accepted: 1, Targets: []relay.TargetStats{{Target: b, Conns: 1, Out: 512, In: 1 << 20}}},
				},
			},
		}, {
			GroupState: proxy.GroupState{
				FileSystem: "nfs://nas.example.com/export/a-rather-long-path/for-a-narrow-window", Current: target("", "192.0.2.7:2049"),
				Targets: []proxy.TargetState{{
					Target: target("", "192.0.2.7:2049"), InUse: true, Health: proxy.Doubt, Since: ago(9 * time.Second), Checks: 4, Failures: 1,
					Why: "read tcp 192.0.2.1:50514->192.0.2.7:2049: i/o timeout",
				}},
			},
			Trouble: "mount: timed out after 25 s", Troubled: ago(30 * time.Second),
			Transports: []status.Transport{{Path: status.Direct, Target: target("", "192.0.2.7:2049")}},
		}, {
			GroupState: proxy.GroupState{FileSystem: "dir:/mnt/efs/local"},
			Default:    true, Connected: true, Since: ago(26 * time.Hour),
		}},
		Known: 5, Mounted: []status.Volume{
			{Name: "pgdata", FileSystem: "fs-0123456789abcdef0", Since: ago(25 * time.Hour), Mounts: map[string]int{"2b1f0c9e8d7a6b5c4d3e2f1a": 1}},
			{Name: "wordpress_uploads", FileSystem: "fs-0123456789abcdef0", Since: ago(90 * time.Minute), Mounts: map[string]int{"5d6e7f": 1, "9a8b7c": 2}, Elsewhere: []string{"web-2", "web-3"}},
			{
				Name: "build-cache", FileSystem: "nfs://nas.example.com/export/a-rather-long-path/for-a-narrow-window", Since: ago(40 * time.Second), Mounts: map[string]int{"0f0e0d": 2},
				Trouble: []string{"its directory is gone from the file system"},
			},
		},
		Elsewhere: []status.Used{
			{Name: "registry", FileSystem: "fs-0123456789abcdef0", By: []string{"web-2"}},
			{Name: "shop_uploads", FileSystem: "fs-0123456789abcdef0", By: []string{"web-2", "web-3"}},
		},
	}
}

func handler(take func() status.Snapshot) http.Handler {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return web.Handler(take, log)
}

func of(s status.Snapshot) http.Handler {
	return handler(func() status.Snapshot { return s })
}

// ask answers a request without a network.
func ask(t *testing.T, h http.Handler, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), method, path, nil))
	return recorder
}
