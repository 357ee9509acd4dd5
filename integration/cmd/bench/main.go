// Command bench measures the plugin on a test host beside its peers, in the same
// run, and writes the table of docs/benchmarks.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/integration/bundle"
	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

const (
	bundleDir = "build/plugin-amd64"
	hostbench = "build/lab/hostbench"
	remote    = "/root/hostbench"

	// The parts that can be measured alone: the data path, mounts and queries, what
	// zones cost, what EFS's TLS and IAM cost, what a lease costs, and what the deletion of
	// a volume costs others.
	partRelays   = "relays"
	partMounts   = "mounts"
	partZones    = "zones"
	partEFS      = "efs"
	partLease    = "lease"
	partDeletion = "deletion"

	// manyVolumes is the number of the targets for List and Get.
	manyVolumes = 10000
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	out := flag.String("o", "docs/benchmarks.md", "the page to write")
	only := flag.String("only", "", "measure a part: relays, mounts, zones, efs, lease, deletion; the page then has nothing else")
	flag.Parse()
	if !slices.Contains([]string{"", partRelays, partMounts, partZones, partEFS, partLease, partDeletion}, *only) {
		return fmt.Errorf("-only %s: no such part, write relays, mounts, zones, efs, lease or deletion", *only)
	}
	prepare := func(ctx context.Context) error {
		if err := lab.Prepare(ctx, lab.Suites()[0], os.Stderr); err != nil {
			return err
		}
		_, err := lab.PreparePeers(ctx, lab.Suites()[0], os.Stderr)
		return err
	}
	code, done, err := lab.Isolate(prepare)
	if err != nil {
		return err
	}
	if done {
		if code != 0 {
			return fmt.Errorf("exit code %d", code)
		}
		return nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	peers, err := lab.PreparePeers(ctx, lab.Suites()[0], os.Stderr) // is there
	if err != nil {
		return err
	}
	var all results
	if *only == "" || *only == partRelays {
		if all.relays, err = measureRelays(ctx, peers); err != nil {
			return err
		}
	}
	if *only == "" || *only == partEFS {
		if all.efs.micro, err = measureEFS(ctx); err != nil {
			return err
		}
	}
	if *only == partRelays {
		return all.write(*out)
	}
	files, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(files)
	l, err := lab.Start(ctx, lab.Options{Hosts: []string{"host-a"}, Log: os.Stderr})
	if err != nil {
		return err
	}
	b := &bench{ctx: ctx, lab: l, host: l.Host("host-a"), peers: peers, files: files, results: all}
	if err := b.measureHost(*only); err != nil {
		return errors.Join(err, l.Close())
	}
	return errors.Join(b.results.write(*out), l.Close())
}

func (r results) write(file string) error {
	page := r.page()
	fmt.Print(page)
	return os.WriteFile(file, []byte(page), 0o644)
}

// summary is hostbench's.
type summary struct {
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
	Count  int     `json:"count"`
}

// bench is a run on one host.
type bench struct {
	ctx     context.Context //nolint:containedctx // a run is one call's
	lab     *lab.Lab
	host    *lab.Host
	peers   string // directory of the tree with HAProxy, stunnel and fio
	files   string // directory that goes with the run
	results results

	peersThere bool   // the host has the image
	efsTarget  string // address of the mount target that speaks TLS
	haproxy    *haproxy
}

// results are all measurements, by measurement and peer; milliseconds.
type results struct {
	kernel, engine                       string
	further, first, through              map[string]summary
	alive, dead                          map[string]summary
	queries, queriesStopped, start       map[string]summary
	idleMiB, idleManyMiB, rootfsMiB      float64
	furtherRounds, firstRounds, launches int
	relays                               relayReport
	crowd                                relayCrowd // on the host
	loads                                loadResults
	stalls                               []stall
	efs                                  efsResults
	lease                                leaseResults
	deletion                             map[string]summary
}

// measureHost measures on a test host: all, or one part.
func (b *bench) measureHost(only string) error {
	for _, step := range []struct {
		part, what string
		do         func() error
	}{
		{"", "bring the programs to the host", b.prepare},
		{partMounts, "mounts of a file system in use", b.further},
		{partMounts, "first mounts of a file system", b.first},
		{partMounts, "parallel mounts, and with a dead file system", b.parallel},
		{partMounts, "memory of an idle plugin", func() error { return b.memory(&b.results.idleMiB) }},
		{partMounts, "10,000 volumes", b.many},
		{partMounts, "mounts through Docker", b.through},
		{partLease, "a hand-over, a takeover and renewals", b.lease},
		{partDeletion, "a volume beside one that is deleted", b.deletion},
		{partZones, "bring HAProxy, fio and a plugin with three zones", b.prepareZones},
		{partZones, "fio and pgbench", b.loads},
		{partZones, "stalls", b.stalls},
		{partZones, "the relay with 5,000 connections", b.crowd},
		{partEFS, "a mount target that speaks TLS", b.prepareEFS},
		{partEFS, "mounts by TLS", b.protected},
		{partEFS, "fio by TLS", b.protectedLoads},
	} {
		if only != "" && step.part != "" && step.part != only {
			continue
		}
		start := time.Now()
		fmt.Fprintf(os.Stderr, "bench: %s\n", step.what)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		fmt.Fprintf(os.Stderr, "bench: %s: %.0f s\n", step.what, time.Since(start).Seconds())
	}
	return nil
}

func (b *bench) prepare() error {
	if err := bundle.Upload(b.ctx, b.host, bundleDir); err != nil {
		return err
	}
	if err := b.host.Upload(b.ctx, hostbench, remote, 0o755); err != nil {
		return err
	}
	var err error
	if b.results.kernel, err = b.host.Run(b.ctx, "uname -r"); err != nil {
		return err
	}
	if b.results.engine, err = b.host.Run(b.ctx, "docker version --format '{{.Server.Version}}'"); err != nil {
		return err
	}
	b.results.rootfsMiB, err = sizeOf(filepath.Join(bundleDir, "rootfs"))
	return err
}

func sizeOf(dir string) (mib float64, err error) {
	err = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			mib += float64(info.Size()) / (1 << 20)
		}
		return err
	})
	return mib, err
}

// measure runs one of hostbench's measurements.
func (b *bench) measure(into any, name, flags string) error {
	return b.measureLine(into, fmt.Sprintf("%s -program %s -server %s %s %s", remote, bundle.Program, b.lab.Server.Addr("a"), flags, name))
}

func (b *bench) measureLine(into any, line string) error {
	out, err := b.host.Run(b.ctx, line)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

func (b *bench) further() error {
	b.results.furtherRounds = 100
	return b.measure(&b.results.further, "further", fmt.Sprintf("-rounds %d", b.results.furtherRounds))
}

func (b *bench) first() error {
	second, err := b.lab.SecondServer(b.ctx)
	if err != nil {
		return err
	}
	b.results.firstRounds = 25
	return b.measure(&b.results.first, "first", fmt.Sprintf("-rounds %d -other %s", b.results.firstRounds, second.Addr("a")))
}

// parallel measures once with a further file system that does not exist for anybody
// and once with one whose packets are swallowed.
func (b *bench) parallel() error {
	second, err := b.lab.SecondServer(b.ctx)
	if err != nil {
		return err
	}
	if err := b.measure(&b.results.alive, "parallel", ""); err != nil {
		return err
	}
	if err := second.Drop(b.ctx, second.Addr("a")); err != nil {
		return err
	}
	err = b.measure(&b.results.dead, "parallel", "-other "+second.Addr("a").String())
	return errors.Join(err, second.Heal(b.ctx))
}

func (b *bench) memory(mib *float64) error {
	var result map[string]float64
	err := b.measure(&result, "memory", "")
	*mib = result["MiB"]
	return err
}

// many puts records of 10,000 volumes into the catalogue, as another host would, and
// measures with the server running and stopped.
func (b *bench) many() error {
	dir := filepath.Join(b.lab.Server.Dir("/export"), ".docker-volume-efs", "volumes")
	for i := range manyVolumes {
		name := fmt.Sprintf("many%d", i)
		record := fmt.Sprintf(`{"version":1,"name":%q,"state":"ready","path":"/%s","options":{"access":"shared","remove":"trash","via":"auto"},`+
			`"made":true,"created":"2026-01-01T00:00:00Z","created_by":"bench"}`, name, name)
		if err := os.WriteFile(filepath.Join(dir, name+".json"), []byte(record), 0o600); err != nil {
			return err
		}
	}
	flags := fmt.Sprintf("-volumes %d", manyVolumes)
	if err := b.measure(&b.results.queries, "queries", flags); err != nil {
		return err
	}
	if err := b.measure(&b.results.start, "start", "-rounds 30"); err != nil {
		return err
	}
	if err := b.memory(&b.results.idleManyMiB); err != nil {
		return err
	}
	b.lab.Server.Stop()
	err := b.measure(&b.results.queriesStopped, "queries", flags)
	return errors.Join(err, b.lab.Server.Start(b.ctx))
}

// through measures with the managed plugin in the Engine.
func (b *bench) through() error {
	b.results.launches = 25
	server := b.lab.Server.Addr("a")
	for _, line := range bundle.Commands(fmt.Sprintf("EFS_FILESYSTEM=nfs://%s/export EFS_ROOT=/through", server)) {
		if _, err := b.host.Run(b.ctx, line); err != nil {
			return err
		}
	}
	script := fmt.Sprintf(`set -e
mkdir -p /run/nfs && mount -t nfs4 %[1]s:/export /run/nfs
for i in $(seq 0 %[2]d); do
	mkdir -p /run/nfs/local$i
	docker volume create -d local -o type=nfs -o device=:/export/local$i \
		-o o=addr=%[1]s,nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport local$i
	docker create --name local$i -v local$i:/data busybox true
	docker volume create -d efs efs$i
	docker create --name efs$i -v efs$i:/data busybox true
	docker create --name none$i busybox true
done >/dev/null
sleep 12`, server, b.results.launches-1)
	if _, err := b.host.Run(b.ctx, script); err != nil {
		return err
	}
	return b.measure(&b.results.through, "engine", fmt.Sprintf("-rounds %d", b.results.launches))
}
