package main

import (
	"fmt"
	"strings"
)

// page is docs/benchmarks.md.
func (r results) page() string {
	var p strings.Builder
	fmt.Fprintf(&p, `# Benchmarks

## Name

Benchmarks: what a mount, a query and a start cost, beside the peers in the same run.

## Description

Written by %[1]smake bench%[1]s on a test host: Linux %s, Docker Engine %s, one processor in software emulation, nfs-ganesha as server. The
machine is slow and shared, so the ratios count and not the times. Peers take turns with the plugin, round by round. Milliseconds.

`, "`", r.kernel, r.engine)
	if r.further != nil {
		r.mounts(&p)
		r.queriesTable(&p)
	}
	if r.relays.Plain != nil {
		r.relayPage(&p)
	}
	if r.crowd.Peer != "" {
		fmt.Fprint(&p, "### Idle connections on a test host\n\nAs above, in emulation; the limit of open files has room for more there.\n\n")
		crowdRows(&p, []relayCrowd{r.crowd})
	}
	if r.loads.rates != nil {
		r.loads.table(&p, fmt.Sprintf("fio and pgbench on a test host (medians of %d rounds)", loadRounds),
			"The targets: relay at least 0.9 of direct, steered as much as direct.", wayDirect, wayRelay, waySteered)
		r.stallTable(&p)
	}
	if r.efs.micro != nil || r.efs.mounts != nil {
		r.efsPage(&p)
	}
	if r.lease.HandOver != nil {
		r.lease.table(&p)
	}
	if r.deletion != nil {
		r.deletionTable(&p)
	}
	fmt.Fprintf(&p, `## Options

%[1]smake bench RUN=relays%[1]s (or %[1]smounts%[1]s, %[1]szones%[1]s, %[1]sefs%[1]s, %[1]slease%[1]s, %[1]sdeletion%[1]s) measures one part and leaves this page alone; the result is %[1]sbuild/benchmarks.md%[1]s.

## Examples

    make bench

## Failure modes

A busy machine: medians hold, p99 does not. Run it again alone.
`, "`")
	return p.String()
}

func (r results) mounts(p *strings.Builder) {
	peerTable(p, fmt.Sprintf("Mount of a volume whose file system is in use (%d rounds)", r.furtherRounds),
		"The plugin is asked through its socket, as Docker asks it. `mount(2)` is the system call that Docker's local driver makes for `type=nfs`.",
		r.further, "plugin", "mount -t nfs4", "mount(2)")
	less := map[string]summary{}
	base := r.through["no volume"]
	for _, peer := range []string{"plugin", "local driver, type=nfs"} {
		s := r.through[peer]
		less[peer] = summary{Median: s.Median - base.Median, P99: s.P99 - base.Median, Count: s.Count}
	}
	peerTable(p, fmt.Sprintf("The same through Docker (%d rounds)", r.launches),
		fmt.Sprintf("Stricter than asked for: `mount(2)` above is the local driver's own work. The Engine is asked for a file of a container that does not run, which makes it mount the container's volume; each round has a "+
			"volume of its own. The Engine's own share, %.1f ms for a container without a volume, is taken off.", base.Median),
		less, "plugin", "local driver, type=nfs")
	peerTable(p, fmt.Sprintf("First mount of a file system (%d rounds)", r.firstRounds),
		"Nobody on the host knows the server before.", r.first, "plugin", "mount -t nfs4", "mount(2)")
	fmt.Fprintf(p, "### 100 containers mount and unmount 50 volumes at once\n\n| while | median | p99 | target |\n|---|---|---|---|\n")
	fmt.Fprintf(p, "| all is well | %s | |\n", cells(r.alive["mount and unmount"]))
	fmt.Fprintf(p, "| one further file system is dead, with 8 calls waiting for it | %s | none waits for it |\n\n", cells(r.dead["mount and unmount"]))
}

func (r results) queriesTable(p *strings.Builder) {
	fmt.Fprintf(p, "### With 10,000 volumes\n\n| what | median | p99 | target |\n|---|---|---|---|\n")
	fmt.Fprintf(p, "| List | %s | 50 |\n", cells(r.queries["List"]))
	fmt.Fprintf(p, "| List, NFS server stopped | %s | 50 |\n", cells(r.queriesStopped["List"]))
	fmt.Fprintf(p, "| Get | %s | 1 |\n", cells(r.queries["Get"]))
	fmt.Fprintf(p, "| Get, NFS server stopped | %s | 1 |\n", cells(r.queriesStopped["Get"]))
	fmt.Fprintf(p, "| Capabilities, which answers with a constant | %s | |\n", cells(r.queries["Capabilities"]))
	fmt.Fprintf(p, "| start of the process to listening socket | %s | 50 |\n", cells(r.start["start"]))
	fmt.Fprintf(p, "| start of the process to the first answered List | %s | |\n\n", cells(r.start["answer"]))
	fmt.Fprintf(p, "### Size\n\n| what | MiB | target |\n|---|---|---|\n")
	fmt.Fprintf(p, "| resident memory, idle, both processes (Pss) | %.1f | 25 |\n| resident memory, idle, 10,000 volumes | %.1f | |\n| root file system | %.1f | 20 |\n\n",
		r.idleMiB, r.idleManyMiB, r.rootfsMiB)
}

// peerTable shows how often slower each peer is than the first.
func peerTable(p *strings.Builder, title, text string, all map[string]summary, peers ...string) {
	fmt.Fprintf(p, "### %s\n\n%s\n\n| peer | median | p99 | median against the plugin's |\n|---|---|---|---|\n", title, text)
	for _, peer := range peers {
		fmt.Fprintf(p, "| %s | %s | %.2f |\n", peer, cells(all[peer]), all[peer].Median/all[peers[0]].Median)
	}
	fmt.Fprintln(p)
}

func cells(s summary) string { return fmt.Sprintf("%.2f | %.2f", s.Median, s.P99) }
