// Command hostbench measures on a test host, where a clock's tick is not a network
// trip away. Command bench runs it there; it prints one JSON object.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "hostbench:", err)
		os.Exit(1)
	}
}

// config is what all measurements share.
type config struct {
	program string // docker-volume-efs
	server  string // address of the NFS server in use
	other   string // address of a server that is in use by nobody
	volumes int    // that the list is measured with
	rounds  int

	authority string // file of the certificate that a mount target's is signed with
}

func run() error {
	var c config
	flag.StringVar(&c.program, "program", "docker-volume-efs", "the plugin's program")
	flag.StringVar(&c.server, "server", "", "address of the NFS server")
	flag.StringVar(&c.other, "other", "", "address of a second NFS server")
	flag.IntVar(&c.volumes, "volumes", 0, "number of volumes that exist")
	flag.StringVar(&c.authority, "authority", "", "certificate of a mount target's authority")
	flag.IntVar(&c.rounds, "rounds", 100, "how often each thing is measured")
	flag.Parse()
	measurements := map[string]func(config) (any, error){
		"further": further, "first": first, "engine": engine, "queries": queries, "start": start, "parallel": parallel, "memory": memory,
		"protected": protected, "exclusive": exclusive, "deleting": deleting,
	}
	measure := measurements[flag.Arg(0)]
	if measure == nil {
		return fmt.Errorf("%q is none of the measurements", flag.Arg(0))
	}
	result, err := measure(c)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// Times are durations of one thing, in milliseconds.
type Times []float64

func (t *Times) add(d time.Duration) { *t = append(*t, float64(d)/float64(time.Millisecond)) }

// Summary is what the tables show.
type Summary struct {
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
	Count  int     `json:"count"`
}

func (t Times) summary() Summary {
	sorted := slices.Sorted(slices.Values(t))
	at := func(share float64) float64 { return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))] }
	return Summary{Median: at(0.5), P99: at(0.99), Count: len(sorted)}
}

func summaries(all map[string]*Times) map[string]Summary {
	result := map[string]Summary{}
	for name, times := range all {
		result[name] = times.summary()
	}
	return result
}

// timed adds how long f took, if it worked.
func timed(t *Times, f func() error) error {
	start := time.Now()
	if err := f(); err != nil {
		return err
	}
	t.add(time.Since(start))
	return nil
}
