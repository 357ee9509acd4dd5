package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	loadRounds = 3
	// fioSeconds is how long one of fio's jobs runs.
	fioSeconds = 5
	// pgScale is pgbench's scale: 100,000 accounts each, far more than its clients.
	pgScale   = 3
	pgSeconds = 15
)

// fioJobs are those of a data base and of a bulk copy.
var fioJobs = []struct{ name, options string }{ //nolint:gochecknoglobals // a table
	{"read, 1 MiB", "--rw=read --bs=1M --iodepth=8"},
	{"write, 1 MiB", "--rw=write --bs=1M --iodepth=8"},
	{"read, 8 KiB, random", "--rw=randread --bs=8k --iodepth=8"},
	{"write, 8 KiB, random, synced", "--rw=randwrite --bs=8k --iodepth=1 --fsync=1"},
}

// loads measures fio and pgbench on a relayed volume beside a direct one, and then on the
// direct one after it was steered to another zone.
func (b *bench) loads() error {
	z := zones{b}
	for round := range loadRounds {
		ways := []string{wayDirect, wayRelay}
		if round%2 == 1 {
			slices.Reverse(ways)
		}
		for _, way := range ways {
			if err := z.load(way, way); err != nil {
				return err
			}
		}
	}
	if err := z.drain(wayDirect); err != nil {
		return err
	}
	for range loadRounds {
		if err := z.load(wayDirect, waySteered); err != nil {
			return err
		}
	}
	return nil
}

func (z zones) load(volume, way string) error {
	for _, job := range fioJobs {
		rate, err := z.fio(volume, job.options)
		if err != nil {
			return fmt.Errorf("fio, %s, %s: %w", job.name, way, err)
		}
		z.results.loads.add("fio "+job.name+", MiB/s", way, rate)
	}
	rate, err := z.pgbench(volume)
	if err != nil {
		return fmt.Errorf("pgbench, %s: %w", way, err)
	}
	z.results.loads.add("pgbench, transactions/s", way, rate)
	return nil
}

// loadResults are rates, by what was measured and by the way to the file system.
type loadResults struct {
	rates map[string]map[string][]float64
	names []string // in order
}

func (l *loadResults) add(what, way string, value float64) {
	if l.rates == nil {
		l.rates = map[string]map[string][]float64{}
	}
	if l.rates[what] == nil {
		l.rates[what] = map[string][]float64{}
		l.names = append(l.names, what)
	}
	l.rates[what][way] = append(l.rates[what][way], value)
}

// table shows the medians, and how much each way has of the first one's.
func (l *loadResults) table(p *strings.Builder, title, text string, ways ...string) {
	fmt.Fprintf(p, "### %s\n\n%s\n\n| what | %s |", title, text, strings.Join(ways, " | "))
	for _, way := range ways[1:] {
		fmt.Fprintf(p, " %s, against %s |", way, ways[0])
	}
	fmt.Fprintf(p, "\n|%s\n", strings.Repeat("---|", 2*len(ways)))
	for _, what := range l.names {
		fmt.Fprintf(p, "| %s |", what)
		for _, way := range ways {
			fmt.Fprintf(p, " %.2f |", median(l.rates[what][way]))
		}
		for _, way := range ways[1:] {
			fmt.Fprintf(p, " %.2f |", median(l.rates[what][way])/median(l.rates[what][ways[0]]))
		}
		fmt.Fprintln(p)
	}
	fmt.Fprintln(p)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func (z zones) fio(way, options string) (mibPerSecond float64, err error) {
	out, err := z.host.Run(z.ctx, fmt.Sprintf("docker run --rm -v %s:/data peers fio --name=bench --filename=/data/fio --size=64M "+
		"--direct=1 --ioengine=libaio --runtime=%d --time_based --output-format=json %s", way, fioSeconds, options))
	if err != nil {
		return 0, err
	}
	var report struct {
		Jobs []struct {
			Read, Write struct {
				BWBytes float64 `json:"bw_bytes"`
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Jobs) != 1 {
		return 0, fmt.Errorf("fio says %q: %w", out, err)
	}
	return (report.Jobs[0].Read.BWBytes + report.Jobs[0].Write.BWBytes) / (1 << 20), nil
}

var tps = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

func (z zones) pgbench(way string) (perSecond float64, err error) {
	out, err := z.host.Run(z.ctx, fmt.Sprintf(`set -e
docker run -d --name pg -v %s:/volume -e PGDATA=/volume/pg --shm-size 128m postgres >/dev/null
trap 'docker rm -f pg >/dev/null' EXIT
until docker exec pg pg_isready -q -U postgres; do sleep 0.3; done
docker exec -u postgres pg pgbench -i -q -s %d postgres >/dev/null 2>&1
docker exec -u postgres pg psql -qc checkpoint
docker exec -u postgres pg pgbench -n -c 4 -T %d postgres`, way, pgScale, pgSeconds))
	if err != nil {
		return 0, err
	}
	found := tps.FindStringSubmatch(out)
	if found == nil {
		return 0, errors.New("pgbench tells no tps: " + out)
	}
	return strconv.ParseFloat(found[1], 64)
}
