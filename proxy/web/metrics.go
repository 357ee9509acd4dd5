package web

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// family is one metric, with as many time series as it has sets of label values.
type family struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	labels int
}

func gauge(name, help string, labels ...string) *family {
	return &family{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue, len(labels)}
}

func counter(name, help string, labels ...string) *family {
	return &family{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue, len(labels)}
}

// families are all metrics. The labels are bounded: by what is configured, or by a
// short list in the code. None has a volume's name or a client's address.
type families struct {
	build, healthy, troubles, filesystemTrouble, homeInUse *family
	moves, recoveries, lastMove, transports                *family
	connected, known, volumes, mounts, volumesTroubled     *family

	inUse, drained, backup, health, healthSince, rtt *family
	checks, checkFailures, lastCheck                 *family

	conns, held, ready, limit               *family
	accepted, refused, moved, lost          *family
	targetConns, bytes, retransmits, tcpRTT *family
}

func newFamilies() families {
	fs, target := "filesystem", []string{"filesystem", "zone", "target"}
	return families{
		build:             gauge("efs_build_info", "The program's version; always 1.", "version"),
		healthy:           gauge("efs_healthy", "Whether nothing is wrong, as /healthz says: 1 or 0."),
		troubles:          gauge("efs_troubles", "How many things are wrong, as /healthz lists them."),
		filesystemTrouble: gauge("efs_filesystem_trouble", "Whether something is wrong with a file system: 1 or 0.", fs),
		homeInUse:         gauge("efs_filesystem_home_zone_in_use", "Whether a file system is used through the home zone: 1 or 0. Absent if no home zone is known.", fs),
		moves:             counter("efs_moves_total", "Moves of a file system to another mount target, by cause.", fs, "cause"),
		recoveries:        counter("efs_client_recoveries_total", "Moves to a mount target that did not know this host's client: locks may have been lost.", fs),
		lastMove:          gauge("efs_last_move_timestamp_seconds", "When the latest move was, in Unix time. Absent before the first.", fs),
		transports:        gauge("efs_transports", "Ways of using a file system, by path: direct or relay.", fs, "path"),
		connected:         gauge("efs_filesystem_connected", "Whether a file system is mounted: 1 or 0.", fs),
		known:             gauge("efs_volumes_known", "Volumes that this host knows of."),
		volumes:           gauge("efs_volumes_mounted", "Volumes mounted on this host.", fs),
		mounts:            gauge("efs_volume_mounts", "Uses of the volumes mounted on this host.", fs),
		volumesTroubled:   gauge("efs_volumes_troubled", "Volumes mounted on this host with which something is wrong.", fs),

		inUse:         gauge("efs_target_in_use", "Whether a mount target is the one in use: 1 or 0.", target...),
		drained:       gauge("efs_target_drained", "Whether a mount target's zone is drained: 1 or 0.", target...),
		backup:        gauge("efs_target_backup", "Whether a mount target is gone to only when no other is usable: 1 or 0.", target...),
		health:        gauge("efs_target_health", "1 for the state that a mount target is in (unknown, up, doubt or down), 0 for the others.", append(target, "state")...),
		healthSince:   gauge("efs_target_health_since_timestamp_seconds", "When a mount target's health became what it is, in Unix time.", target...),
		rtt:           gauge("efs_target_round_trip_seconds", "Smoothed time of an NFS NULL call. Absent as long as none was answered.", target...),
		checks:        counter("efs_target_checks_total", "Health checks of a mount target.", target...),
		checkFailures: counter("efs_target_check_failures_total", "Health checks that failed.", target...),
		lastCheck:     gauge("efs_target_last_check_timestamp_seconds", "When a mount target was last checked, in Unix time. Absent before the first check.", target...),

		conns:       gauge("efs_relay_connections", "Clients connected to the relays of a file system.", fs),
		held:        gauge("efs_relay_connections_held", "Clients that wait for a mount target to answer.", fs),
		ready:       gauge("efs_relay_connections_ready", "Connections to a mount target that wait for a client that was told to connect again.", fs),
		limit:       gauge("efs_relay_connections_limit", "How many clients there may be.", fs),
		accepted:    counter("efs_relay_connections_accepted_total", "Clients accepted.", fs),
		refused:     counter("efs_relay_connections_refused_total", "Clients refused, by cause: not_admitted or limit.", fs, "cause"),
		moved:       counter("efs_relay_connections_moved_total", "Clients told to connect again to follow a move.", fs),
		lost:        counter("efs_relay_connections_lost_total", "Connections that a mount target ended or that broke.", fs),
		targetConns: gauge("efs_relay_target_connections", "Connections to a mount target.", target...),
		bytes:       counter("efs_relay_bytes_total", "Bytes passed, by direction: out to the mount target (acknowledged by it), in from it.", append(target, "direction")...),
		retransmits: counter("efs_relay_retransmitted_segments_total", "TCP segments sent to a mount target again.", target...),
		tcpRTT:      gauge("efs_relay_tcp_round_trip_seconds", "The kernel's smoothed TCP round-trip time of a connection to a mount target. Absent if there was none.", target...),
	}
}

func (f *families) all() []*family {
	return []*family{
		f.build, f.healthy, f.troubles, f.filesystemTrouble, f.homeInUse, f.moves, f.recoveries, f.lastMove, f.transports,
		f.connected, f.known, f.volumes, f.mounts, f.volumesTroubled,
		f.inUse, f.drained, f.backup, f.health, f.healthSince, f.rtt, f.checks, f.checkFailures, f.lastCheck,
		f.conns, f.held, f.ready, f.limit, f.accepted, f.refused, f.moved, f.lost,
		f.targetConns, f.bytes, f.retransmits, f.tcpRTT,
	}
}

// maxLabels is how many labels a metric has at most.
const maxLabels = 4

// sample names one time series.
type sample struct {
	family *family
	labels [maxLabels]string
}

// samples are collected first, because one time series given twice would cost the
// whole scrape: two relays may have one mount target.
type samples map[sample]float64

func key(f *family, labels []string) sample {
	s := sample{family: f}
	for i, label := range labels {
		s.labels[i] = strings.ToValidUTF8(label, "\uFFFD")
	}
	return s
}

// add is for what sums up.
func (s samples) add(f *family, value float64, labels ...string) { s[key(f, labels)] += value }

// set is for what is or is not.
func (s samples) set(f *family, value float64, labels ...string) { s[key(f, labels)] = value }

func (s samples) flag(f *family, value bool, labels ...string) {
	number := 0.0
	if value {
		number = 1
	}
	s.set(f, number, labels...)
}
