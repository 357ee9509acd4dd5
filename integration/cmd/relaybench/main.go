// Command relaybench measures the relay beside HAProxy and stunnel, all on one machine's
// loopback and in one run, with the direct way as the limit. It prints JSON for command bench.
//
// The peers take turns, round by round, so that a noisy machine hits all of them.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// bench is one run.
type bench struct {
	program string // the plugin's
	peers   string // a Debian tree with HAProxy, stunnel and openssl
	dir     string // for configuration
	server  string // address
	rounds  int
	room    int // how many connections are possible
	lasts   time.Duration
	log     bytes.Buffer // what peers say
}

// Result is what was measured of one peer: medians of all rounds.
type Result struct {
	Peer string `json:"peer"`
	// Read and Write are MiB/s on one connection, CPU seconds of the peer's for each GiB.
	Read     float64 `json:"read"`
	ReadCPU  float64 `json:"read_cpu"`
	Write    float64 `json:"write"`
	WriteCPU float64 `json:"write_cpu"`
	// P50 and P99 are of a small message and its answer, microseconds.
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// Crowd is a peer's memory by the number of idle connections, MiB.
type Crowd struct {
	Peer   string    `json:"peer"`
	Counts []int     `json:"counts"`
	MiB    []float64 `json:"mib"`
	// P50 is of a small message beside that many idle connections, microseconds.
	P50 []float64 `json:"p50"`
}

// Report is all that is printed.
type Report struct {
	Plain  []Result `json:"plain"`
	Secure []Result `json:"secure"`
	Crowds []Crowd  `json:"crowds"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "relaybench:", err)
		os.Exit(1)
	}
}

func run() error {
	b := &bench{}
	serve := flag.Bool("serve", false, "be the server (used by this program itself)")
	flag.StringVar(&b.program, "program", "build/docker-volume-efs", "the plugin's program")
	flag.StringVar(&b.peers, "peers", "", "directory of a Debian tree with the peers' programs")
	flag.IntVar(&b.rounds, "rounds", 9, "how often each peer has its turn")
	flag.DurationVar(&b.lasts, "for", time.Second, "how long a turn of one measurement lasts")
	alone := flag.Bool("crowd", false, "only measure the relay with many connections; needs no peers")
	flag.Parse()
	if *serve {
		return runServer()
	}
	var err error
	if b.room, err = raiseDescriptors(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "relaybench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b.dir = dir
	server, err := b.startServer()
	if err != nil {
		return err
	}
	defer group{server}.stop()
	if *alone {
		crowd, err := b.crowd(plainPeers()[0])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(Report{Crowds: []Crowd{crowd}})
	}
	var report Report
	if report.Plain, err = b.measure(plainPeers()); err != nil {
		return err
	}
	if report.Secure, err = b.measure(securePeers()); err != nil {
		return err
	}
	for _, p := range slices.Concat(plainPeers()[:2], securePeers()) {
		crowd, err := b.crowd(p)
		if err != nil {
			return fmt.Errorf("%s with many connections: %w", p.name, err)
		}
		report.Crowds = append(report.Crowds, crowd)
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}

// raiseDescriptors is for this program and all that it starts. It returns how many connections a
// relay may then take that sets six descriptors aside for each.
func raiseDescriptors() (conns int, err error) {
	const enough = 65536
	_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: enough, Max: enough}) // where it may
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	limit.Cur = limit.Max
	return int(limit.Cur)/6 - 20, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

func (b *bench) startServer() (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.Command(self, "-serve")
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	b.server = strings.TrimSpace(line)
	return command, err
}
