package web_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

func metricsOf(t *testing.T, s status.Snapshot) string {
	t.Helper()
	answer := ask(t, of(s), http.MethodGet, "/metrics")
	if answer.Code != http.StatusOK {
		t.Fatalf("answered %d: %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

func sortedFields(text string) []string {
	fields := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' })
	slices.Sort(fields)
	return fields
}

func TestMetricsKeepToTheConventions(t *testing.T) {
	problems, err := promlint.New(strings.NewReader(metricsOf(t, filled(time.Now())))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestMetricsHaveTheSnapshotsValues(t *testing.T) {
	text := metricsOf(t, filled(time.UnixMilli(1_800_000_000_500)))
	const fs = `filesystem="fs-0123456789abcdef0"`
	for _, want := range []string{
		`efs_build_info{version="v1.2.3"} 1`,
		`efs_healthy 0`,
		`efs_troubles 4`,
		`efs_volumes_known 5`,
		`efs_filesystem_trouble{` + fs + `} 0`,
		`efs_filesystem_trouble{filesystem="nfs://nas.example.com/export/a-rather-long-path/for-a-narrow-window"} 1`,
		`efs_filesystem_connected{` + fs + `} 1`,
		`efs_filesystem_home_zone_in_use{` + fs + `} 0`,
		`efs_volumes_mounted{` + fs + `} 2`,
		`efs_volumes_mounted{filesystem="dir:/mnt/efs/local"} 0`,
		`efs_volume_mounts{` + fs + `} 4`,
		`efs_volumes_troubled{` + fs + `} 0`,
		`efs_moves_total{cause="timeout",` + fs + `} 2`,
		`efs_moves_total{cause="gone",` + fs + `} 0`,
		`efs_client_recoveries_total{` + fs + `} 2`,
		`efs_last_move_timestamp_seconds{` + fs + `} 1.7999997605e+09`,
		`efs_transports{` + fs + `,path="relay"} 2`,
		`efs_transports{` + fs + `,path="direct"} 0`,
		`efs_target_in_use{` + fs + `,target="10.0.2.5:2049",zone="eu-west-1b"} 1`,
		`efs_target_in_use{` + fs + `,target="10.0.1.5:2049",zone="eu-west-1a"} 0`,
		`efs_target_health{` + fs + `,state="down",target="10.0.1.5:2049",zone="eu-west-1a"} 1`,
		`efs_target_health{` + fs + `,state="up",target="10.0.1.5:2049",zone="eu-west-1a"} 0`,
		`efs_target_drained{` + fs + `,target="10.0.3.5:2049",zone="eu-west-1c"} 1`,
		`efs_target_backup{` + fs + `,target="10.0.3.5:2049",zone="eu-west-1c"} 1`,
		`efs_target_round_trip_seconds{` + fs + `,target="10.0.2.5:2049",zone="eu-west-1b"} 0.00124`,
		`efs_target_checks_total{` + fs + `,target="10.0.2.5:2049",zone="eu-west-1b"} 18720`,
		`efs_target_check_failures_total{` + fs + `,target="10.0.2.5:2049",zone="eu-west-1b"} 2`,
		`efs_relay_connections{` + fs + `} 4`,
		`efs_relay_connections_held{` + fs + `} 1`,
		`efs_relay_connections_limit{` + fs + `} 8192`,
		`efs_relay_connections_refused_total{cause="limit",` + fs + `} 1`,
		`efs_relay_connections_refused_total{cause="not_admitted",` + fs + `} 4`,
		`efs_relay_bytes_total{direction="out",` + fs + `,target="10.0.2.5:2049",zone="eu-west-1b"} 2048`,
		`efs_relay_bytes_total{direction="in",` + fs + `,target="10.0.4.5:2049",zone="eu-west-1d"} 34`,
		`efs_relay_retransmitted_segments_total{` + fs + `,target="10.0.1.5:2049",zone="eu-west-1a"} 88`,
		`efs_relay_target_connections{` + fs + `,target="10.0.2.5:2049",zone="eu-west-1b"} 3`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("there is no %s", want)
		}
	}
	for _, never := range []string{
		`efs_target_round_trip_seconds{` + fs + `,target="10.0.3.5:2049"`, // nobody has answered
		`efs_target_last_check_timestamp_seconds{` + fs + `,target="10.0.3.5:2049"`,
		`efs_moves_total{cause="gone",filesystem="dir:`,
		`pgdata`, // volumes come and go without end
	} {
		if strings.Contains(text, never) {
			t.Errorf("there is %s", never)
		}
	}
}

// One bad name must not cost the whole scrape.
func TestMetricsOfHostileNamesAreThere(t *testing.T) {
	text := metricsOf(t, hostileSnapshot())
	for _, want := range []string{"efs_build_info{", "efs_target_in_use{", "efs_relay_bytes_total{", "efs_volumes_mounted{"} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("there is no %s:\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, " ") || strings.HasPrefix(line, "x: y") {
			t.Errorf("a name made a line: %q", line)
		}
	}
}

// Two relays to one mount target are one time series: given twice it would cost the scrape.
func TestMetricsOfSeveralRelaysAreSummed(t *testing.T) {
	where := target("a", "10.0.0.1:2049")
	one := status.Transport{Path: status.Relayed, Traffic: &relay.Stats{Conns: 1, Limit: 10, Targets: []relay.TargetStats{{Target: where, Out: 7, RTT: time.Millisecond}}}}
	ended := relay.Stats{Accepted: 4, Targets: []relay.TargetStats{{Target: where, Out: 100}}}
	text := metricsOf(t, status.Snapshot{FileSystems: []status.FileSystem{{
		GroupState: proxy.GroupState{FileSystem: "fs"}, Transports: []status.Transport{one, one, one}, Ended: &ended,
	}}})
	for _, want := range []string{
		`efs_relay_bytes_total{direction="out",filesystem="fs",target="10.0.0.1:2049",zone="a"} 121`,
		`efs_relay_connections_accepted_total{filesystem="fs"} 4`,
		`efs_relay_connections{filesystem="fs"} 3`, `efs_relay_connections_limit{filesystem="fs"} 30`,
		`efs_relay_tcp_round_trip_seconds{filesystem="fs",target="10.0.0.1:2049",zone="a"} 0.001`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("there is no %s:\n%s", want, text)
		}
	}
}
