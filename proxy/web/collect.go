package web

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

// collector makes metrics of a snapshot that is taken at the scrape.
type collector struct {
	take func() status.Snapshot
	families
}

var _ prometheus.Collector = (*collector)(nil)

func newCollector(take func() status.Snapshot) *collector {
	return &collector{take: take, families: newFamilies()}
}

func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, f := range c.all() {
		descs <- f.desc
	}
}

func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	for at, value := range c.measure(c.take()) {
		labels := at.labels[:at.family.labels]
		metric, err := prometheus.NewConstMetric(at.family.desc, at.family.kind, value, labels...)
		if err != nil {
			metric = prometheus.NewInvalidMetric(at.family.desc, err)
		}
		metrics <- metric
	}
}

func (c *collector) measure(s status.Snapshot) samples {
	out := samples{}
	troubles := len(s.Troubles())
	out.set(c.build, 1, s.Version)
	out.flag(c.healthy, troubles == 0)
	out.set(c.troubles, float64(troubles))
	for _, f := range s.FileSystems {
		for _, family := range []*family{c.volumes, c.mounts, c.volumesTroubled} {
			out.add(family, 0, f.FileSystem)
		}
		c.measureFileSystem(out, f)
	}
	out.set(c.known, float64(s.Known))
	for _, v := range s.Mounted {
		out.add(c.volumes, 1, v.FileSystem)
		out.add(c.mounts, float64(v.Uses()), v.FileSystem)
		if len(v.Trouble) > 0 {
			out.add(c.volumesTroubled, 1, v.FileSystem)
		}
	}
	return out
}

func (c *collector) measureFileSystem(out samples, f status.FileSystem) {
	name := f.FileSystem
	out.flag(c.filesystemTrouble, f.Trouble != "" || f.Silent(), name)
	out.flag(c.connected, f.Connected, name)
	if f.Home != "" && len(f.Targets) > 0 {
		out.flag(c.homeInUse, f.Current.Zone == f.Home, name)
	}
	for _, t := range f.Targets {
		c.measureTarget(out, name, t)
	}
	// Series that begin at 0 let a rate see the first move.
	if len(f.Targets) > 0 {
		for _, cause := range causes() {
			out.set(c.moves, float64(f.Moves[cause]), name, string(cause))
		}
		out.set(c.recoveries, float64(f.Recoveries), name)
	}
	if len(f.Recent) > 0 {
		out.set(c.lastMove, unix(f.Recent[0].At), name)
	}
	for _, path := range []status.Path{status.Direct, status.Relayed} {
		out.add(c.transports, 0, name, string(path))
	}
	for _, t := range f.Transports {
		out.add(c.transports, 1, name, string(t.Path))
		if t.Traffic != nil {
			c.measureRelay(out, name, *t.Traffic)
		}
	}
	if f.Ended != nil {
		c.measureRelay(out, name, *f.Ended)
	}
}

func causes() []proxy.Cause {
	return []proxy.Cause{
		proxy.CauseRefused, proxy.CauseTimeout, proxy.CauseCheck, proxy.CauseDrain, proxy.CauseHome, proxy.CauseGone,
	}
}

func (c *collector) measureTarget(out samples, name string, t proxy.TargetState) {
	zone, addr := t.Zone, t.Addr.String()
	out.flag(c.inUse, t.InUse, name, zone, addr)
	out.flag(c.drained, t.Drained, name, zone, addr)
	out.flag(c.backup, t.Backup, name, zone, addr)
	for _, health := range []proxy.Health{proxy.Unknown, proxy.Up, proxy.Doubt, proxy.Down} {
		out.flag(c.health, t.Health == health, name, zone, addr, string(health))
	}
	if !t.Since.IsZero() {
		out.set(c.healthSince, unix(t.Since), name, zone, addr)
	}
	if t.RTT > 0 {
		out.set(c.rtt, t.RTT.Seconds(), name, zone, addr)
	}
	out.set(c.checks, float64(t.Checks), name, zone, addr)
	out.set(c.checkFailures, float64(t.Failures), name, zone, addr)
	if !t.Checked.IsZero() {
		out.set(c.lastCheck, unix(t.Checked), name, zone, addr)
	}
}

func (c *collector) measureRelay(out samples, name string, s relay.Stats) {
	out.add(c.conns, float64(s.Conns), name)
	out.add(c.held, float64(s.Held), name)
	out.add(c.ready, float64(s.Ready), name)
	out.add(c.limit, float64(s.Limit), name)
	out.add(c.accepted, float64(s.Accepted), name)
	out.add(c.refused, float64(s.NotAdmitted), name, "not_admitted")
	out.add(c.refused, float64(s.Shed), name, "limit")
	out.add(c.moved, float64(s.Moved), name)
	out.add(c.lost, float64(s.Lost), name)
	for _, t := range s.Targets {
		zone, addr := t.Target.Zone, t.Target.Addr.String()
		out.add(c.targetConns, float64(t.Conns), name, zone, addr)
		out.add(c.bytes, float64(t.Out), name, zone, addr, "out")
		out.add(c.bytes, float64(t.In), name, zone, addr, "in")
		out.add(c.retransmits, float64(t.Retransmits), name, zone, addr)
		if t.RTT > 0 {
			out.set(c.tcpRTT, t.RTT.Seconds(), name, zone, addr)
		}
	}
}

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
