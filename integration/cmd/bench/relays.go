package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/docker-volume-efs/docker-volume-efs/integration/bundle"
)

const (
	relaybench = "build/lab/relaybench"
	program    = bundleDir + "/rootfs/docker-volume-efs"
)

// relayResult, relayCrowd and relayReport are relaybench's.
type (
	relayResult struct {
		Peer     string  `json:"peer"`
		Read     float64 `json:"read"`
		ReadCPU  float64 `json:"read_cpu"`
		Write    float64 `json:"write"`
		WriteCPU float64 `json:"write_cpu"`
		P50      float64 `json:"p50"`
		P99      float64 `json:"p99"`
	}
	relayCrowd struct {
		Peer   string    `json:"peer"`
		Counts []int     `json:"counts"`
		MiB    []float64 `json:"mib"`
		P50    []float64 `json:"p50"`
	}
	relayReport struct {
		Plain  []relayResult `json:"plain"`
		Secure []relayResult `json:"secure"`
		Crowds []relayCrowd  `json:"crowds"`
	}
)

// measureRelays runs while no host does: it measures the data path on this machine itself.
func measureRelays(ctx context.Context, peers string) (report relayReport, err error) {
	fmt.Fprintln(os.Stderr, "bench: relays")
	command := exec.CommandContext(ctx, relaybench, "-program", program, "-peers", peers)
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		return report, fmt.Errorf("relaybench: %w", err)
	}
	return report, json.Unmarshal(out, &report)
}

// crowd measures the relay with more connections than this machine's limit of open files may
// have room for.
func (b *bench) crowd() error {
	if err := b.host.Upload(b.ctx, relaybench, "/root/relaybench", 0o755); err != nil {
		return err
	}
	var report relayReport
	// Docker has every connection tracked, twice on loopback, and a small host has room for 8,192.
	if err := b.measureLine(&report, "sysctl -qw net.netfilter.nf_conntrack_max=65536 && /root/relaybench -crowd -program "+bundle.Program); err != nil {
		return err
	}
	b.results.crowd = report.Crowds[0]
	return nil
}

func (r results) relayPage(p *strings.Builder) {
	fmt.Fprintf(p, `## The relay

On this machine itself, without emulation: client, server and relay share its two processors and its loopback. Bulk: 1 MiB pieces,
eight outstanding, one connection. Small: 128 bytes and their answer, one at a time. Medians of the rounds, in which the peers take turns.
The usual configuration of HAProxy has no splice option; both check as people do for EFS (inter 60s, fastinter 15s, downinter 5s).

`)
	relayTable(p, "Plain", r.relays.Plain)
	relayTable(p, "TLS 1.3: a pair on both sides of a network, and to EFS with stunnel in its place", r.relays.Secure)
	r.relayPlot(p)
	r.crowdTable(p)
}

func relayTable(p *strings.Builder, title string, all []relayResult) {
	fmt.Fprintf(p, "### %s\n\n| peer | read MiB/s | write MiB/s | CPU s/GiB, read | write | small p50, µs | p99, µs | read against the relay's | p50 against the relay's |\n"+
		"|---|---|---|---|---|---|---|---|---|\n", title)
	for _, one := range all {
		fmt.Fprintf(p, "| %s | %.0f | %.0f | %.2f | %.2f | %.0f | %.0f | %.2f | %.2f |\n", one.Peer, one.Read, one.Write, one.ReadCPU, one.WriteCPU,
			one.P50, one.P99, one.Read/all[0].Read, one.P50/all[0].P50)
	}
	fmt.Fprintln(p)
}

// relayPlot is drawn by whoever shows the page (Mermaid).
func (r results) relayPlot(p *strings.Builder) {
	all := slices.Concat(r.relays.Plain, r.relays.Secure)
	var names, values []string
	for _, one := range all {
		names = append(names, fmt.Sprintf("%q", one.Peer))
		values = append(values, fmt.Sprintf("%.0f", one.Read))
	}
	highest := slices.MaxFunc(all, func(a, b relayResult) int { return cmp.Compare(a.Read, b.Read) })
	fmt.Fprintf(p, "```mermaid\nxychart-beta horizontal\n  title \"Bulk read, MiB/s\"\n  x-axis [%s]\n  y-axis \"MiB/s\" 0 --> %.0f\n  bar [%s]\n```\n\n",
		strings.Join(names, ", "), math.Ceil(highest.Read/500)*500, strings.Join(values, ", "))
}

func (r results) crowdTable(p *strings.Builder) {
	fmt.Fprint(p, "### Idle connections\n\nProportional resident memory of all of a peer's processes, MiB, and in brackets the median of a small message beside them, µs. "+
		"Target: 1,000 under 30 MB, and as much for each further one from 10 to 5,000.\n\n")
	crowdRows(p, r.relays.Crowds)
}

func crowdRows(p *strings.Builder, all []relayCrowd) {
	fmt.Fprint(p, "| peer |")
	for _, count := range all[0].Counts {
		fmt.Fprintf(p, " %d |", count)
	}
	fmt.Fprintf(p, " KiB for each further one |\n|---|%s---|\n", strings.Repeat("---|", len(all[0].Counts)))
	for _, one := range all {
		fmt.Fprintf(p, "| %s |", one.Peer)
		for i, mib := range one.MiB {
			fmt.Fprintf(p, " %.1f (%.0f) |", mib, one.P50[i])
		}
		last := len(one.MiB) - 1
		fmt.Fprintf(p, " %.1f |\n", (one.MiB[last]-one.MiB[0])*1024/float64(one.Counts[last]-one.Counts[0]))
	}
	fmt.Fprintln(p)
}

func (r results) stallTable(p *strings.Builder) {
	fmt.Fprintf(p, "### Longest stall of a writer that syncs in a loop and holds a lock (seconds, on a test host)\n\nAll of %d runs, shortest first; HAProxy, "+
		"in its usual configuration and on a machine of its own without emulation, once, watched for %.0f s. No writer saw an error.\n\n| what happens | relay | direct, steered | HAProxy | target |\n|---|---|---|---|---|\n",
		stallsEach, peerLimit.Seconds())
	for _, one := range r.stalls {
		fmt.Fprintf(p, "| %s |", one.what)
		for _, way := range []string{wayRelay, wayDirect, wayHAProxy} {
			var texts []string
			for _, seconds := range one.longest[way] {
				text := fmt.Sprintf("%.2f", seconds)
				if seconds > peerLimit.Seconds() {
					text = fmt.Sprintf("more than %.0f", seconds)
				}
				texts = append(texts, text)
			}
			fmt.Fprintf(p, " %s |", cmp.Or(strings.Join(texts, ", "), "–"))
		}
		target := "–"
		if one.target > 0 {
			target = fmt.Sprintf("%.1f", one.target)
		}
		fmt.Fprintf(p, " %s |\n", target)
	}
	fmt.Fprintln(p)
}
