package relay

import (
	"cmp"
	"slices"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/tcp"
)

// Stats is a moment's picture of a [Relay]. Counters run since the start.
type Stats struct {
	// Conns are the clients connected, Held those of them that wait for a mount
	// target, if they may ever have one again; Ready are connections that wait for a client.
	Conns int `json:"connections"`
	Held  int `json:"held"`
	Ready int `json:"ready"`
	// Handshakes are those of Held that have not yet proven who they are.
	Handshakes int `json:"handshakes"`
	// Limit is how many clients there may be.
	Limit    int    `json:"limit"`
	Accepted uint64 `json:"accepted"`
	// NotAdmitted were refused by Admit or in their handshake, Shed by a limit.
	NotAdmitted uint64 `json:"not_admitted"`
	Shed        uint64 `json:"shed"`
	// Moved are clients that were reset to follow a move, Lost connections that a
	// mount target ended or that broke.
	Moved   uint64        `json:"moved"`
	Lost    uint64        `json:"lost"`
	Targets []TargetStats `json:"targets"`
}

// TargetStats is the traffic with one mount target. A zone that has another
// address is another mount target.
type TargetStats struct {
	Target proxy.Target `json:"target"`
	Conns  int          `json:"connections"`
	// Out are bytes that the mount target acknowledged, In those that came.
	// Connections that have ended are part of them.
	Out uint64 `json:"bytes_out"`
	In  uint64 `json:"bytes_in"`
	// Retransmits are segments sent again.
	Retransmits uint64 `json:"retransmits"`
	// RTT is the kernel's smoothed round-trip time of the latest connection seen.
	RTT time.Duration `json:"rtt_ns"`
}

// AddCounters adds what another relay has counted. How many there are of anything at this moment is left out.
func (s *Stats) AddCounters(other Stats) {
	s.Accepted += other.Accepted
	s.NotAdmitted += other.NotAdmitted
	s.Shed += other.Shed
	s.Moved += other.Moved
	s.Lost += other.Lost
	for _, t := range other.Targets {
		i := slices.IndexFunc(s.Targets, func(known TargetStats) bool { return known.Target == t.Target })
		if i < 0 {
			i = len(s.Targets)
			s.Targets = append(s.Targets, TargetStats{Target: t.Target})
		}
		s.Targets[i].Out += t.Out
		s.Targets[i].In += t.In
		s.Targets[i].Retransmits += t.Retransmits
	}
}

// Stats looks at all connections that bytes flow on.
func (r *Relay) Stats() Stats {
	attached := make(map[*upstream]bool)
	held := 0
	for _, p := range r.snapshot() {
		u := p.attached()
		if u == nil {
			if !p.dismissed.Load() {
				held++
			}
			continue
		}
		attached[u] = true
		if !p.idle() {
			_, _ = r.account(u)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	stats := r.stats
	stats.Conns, stats.Held, stats.Ready, stats.Limit = len(r.pairs), held, len(r.ready), r.limit
	for _, count := range r.unproven {
		stats.Handshakes += count
	}
	conns := make(map[proxy.Target]int)
	for u := range attached {
		conns[u.target]++
	}
	for _, target := range r.traffic {
		copied := *target
		copied.Conns = conns[target.Target]
		stats.Targets = append(stats.Targets, copied)
	}
	slices.SortFunc(stats.Targets, func(a, b TargetStats) int {
		return cmp.Or(cmp.Compare(a.Target.Zone, b.Target.Zone), a.Target.Addr.Compare(b.Target.Addr))
	})
	return stats
}

func (r *Relay) count(counter *uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*counter++
}

// settle adds what a connection that is about to be closed has carried.
func (r *Relay) settle(u *upstream, hard bool) {
	r.mu.Lock()
	u.last, u.handed = true, !hard
	r.mu.Unlock()
	_, _ = r.account(u)
}

// account adds what a connection has carried since the last time. The kernel
// forgets it when the connection is closed.
func (r *Relay) account(u *upstream) (tcp.Info, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := tcp.ReadInfo(u.tcp)
	if err != nil {
		return info, err
	}
	total := r.traffic[u.target.Addr]
	if total == nil {
		total = &TargetStats{}
		r.traffic[u.target.Addr] = total
	}
	if info.State == tcp.Closed {
		if !u.last {
			return info, nil // whether there was a FIN is not known yet
		}
		if u.ended.Load() {
			info.Received = max(info.Received, 1) - 1 // a FIN has a number, but is no byte
		}
	}
	if u.handed {
		info.Acked = info.Sent + uint64(max(info.NotSent, 1)-1)
	}
	total.Target = u.target
	total.Out += max(info.Acked, u.counted.Acked) - u.counted.Acked
	total.In += max(info.Received, u.counted.Received) - u.counted.Received
	total.Retransmits += uint64(info.Retransmits - u.counted.Retransmits)
	total.RTT = info.RTT
	u.counted = info
	return info, nil
}
