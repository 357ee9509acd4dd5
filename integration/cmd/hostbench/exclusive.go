package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The volumes of the measurements of a hand-over.
const (
	sharedVolume    = "shared"
	exclusiveVolume = "exclusive"
)

// exclusiveReport is what a lease costs.
type exclusiveReport struct {
	// HandOver is from the last Unmount on one host to the end of the Mount on another.
	HandOver map[string]Summary
	// Takeover is the Mount on another host of a volume whose host does nothing any more.
	Takeover Summary
	// Calls are the NFS client's, of one host, in a second, by what access the volumes have that it
	// has mounted, and their number.
	Calls map[string]map[int]float64
}

// exclusive measures with two plugins, which are two hosts to each other.
func exclusive(c config) (any, error) {
	if err := fresh(); err != nil {
		return nil, err
	}
	var hosts [2]*service
	for i := range hosts {
		var err error
		if hosts[i], _, err = serveIn(fmt.Sprintf("%s/host%d", baseDir, i), c, "nfs://"+c.server+"/export"); err != nil {
			return nil, err
		}
		defer hosts[i].stop() //nolint:errcheck // what was measured is measured
	}
	var report exclusiveReport
	var err error
	if report.HandOver, err = handOver(c, hosts); err != nil {
		return nil, fmt.Errorf("hand over: %w", err)
	}
	if report.Takeover, err = takeover(hosts); err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	report.Calls, err = renewals(hosts[0])
	return report, err
}

// containerLife is longer than what the plugin takes for a passing use, as docker create's.
const containerLife = 1500 * time.Millisecond

func handOver(c config, hosts [2]*service) (map[string]Summary, error) {
	all := map[string]*Times{sharedVolume: {}, exclusiveVolume: {}}
	for name := range all {
		if err := hosts[0].call("Create", volume{Name: name, Opts: map[string]string{"access": name, "via": "relay"}}); err != nil {
			return nil, err
		}
		// Another volume of the same transport stays in use on both hosts, so that what a shared volume's hand-over
		// costs is not the first mount of the file system.
		for _, h := range hosts {
			if err := h.call("Create", volume{Name: "standing", Opts: map[string]string{"via": "relay"}}); err != nil {
				return nil, err
			}
			if err := h.call("Mount", volume{Name: "standing", ID: "standing"}); err != nil {
				return nil, err
			}
		}
	}
	for i := range c.rounds {
		from, to := hosts[i%2], hosts[(i+1)%2]
		for name, times := range all {
			v := volume{Name: name, ID: "bench"}
			if err := from.call("Mount", v); err != nil {
				return nil, err
			}
			time.Sleep(containerLife)
			err := timed(times, func() error {
				if err := from.call("Unmount", v); err != nil {
					return err
				}
				return to.call("Mount", v)
			})
			if err != nil {
				return nil, err
			}
			if err := to.call("Unmount", v); err != nil {
				return nil, err
			}
		}
	}
	return summaries(all), nil
}

// takeovers is how often a host falls silent; each time costs a term.
const takeovers = 5

func takeover(hosts [2]*service) (Summary, error) {
	var times Times
	v := volume{Name: exclusiveVolume, ID: "bench"}
	for i := range takeovers {
		from, to := hosts[i%2], hosts[(i+1)%2]
		if err := from.call("Mount", v); err != nil {
			return Summary{}, err
		}
		time.Sleep(time.Duration(i) * time.Second) // at different moments between two renewals
		if err := from.signal(syscall.SIGSTOP); err != nil {
			return Summary{}, err
		}
		err := timed(&times, func() error { return to.call("Mount", v) })
		if err := from.signal(syscall.SIGCONT); err != nil {
			return Summary{}, err
		}
		if err != nil {
			return Summary{}, err
		}
		time.Sleep(5 * time.Second) // it hears of it
		for _, h := range hosts {
			if err := h.call("Unmount", v); err != nil {
				return Summary{}, err
			}
		}
		time.Sleep(15 * time.Second) // its mount is gone
	}
	return times.summary(), nil
}

// watched is how long calls are counted.
const watched = time.Minute

// renewals counts with shared volumes on relays as well: what a mounted volume costs in any case is
// no renewal.
func renewals(h *service) (map[string]map[int]float64, error) {
	rates := map[string]map[int]float64{}
	for _, access := range []string{sharedVolume, exclusiveVolume} {
		rates[access] = map[int]float64{}
		var mounted []volume
		for _, count := range []int{1, 20} {
			for len(mounted) < count {
				v := volume{Name: fmt.Sprintf("%s%d", access, len(mounted)), ID: "bench", Opts: map[string]string{"access": access, "via": "relay"}}
				if err := h.call("Create", v); err != nil {
					return nil, err
				}
				if err := h.call("Mount", v); err != nil {
					return nil, err
				}
				mounted = append(mounted, v)
			}
			rate, err := callsInASecond()
			if err != nil {
				return nil, err
			}
			rates[access][count] = rate
		}
		for _, v := range mounted {
			if err := h.call("Unmount", v); err != nil {
				return nil, err
			}
		}
	}
	return rates, nil
}

func callsInASecond() (float64, error) {
	time.Sleep(15 * time.Second) // what a mount causes is over, and the warm time of an unmount
	before, err := clientCalls()
	if err != nil {
		return 0, err
	}
	time.Sleep(watched)
	after, err := clientCalls()
	return float64(after-before) / watched.Seconds(), err
}

// clientCalls is how many calls the kernel's NFS clients have made: the first number of the line "rpc"
// (net/sunrpc/stats.c, rpc_proc_show).
func clientCalls() (int, error) {
	text, err := os.ReadFile("/proc/net/rpc/nfs")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		if fields := strings.Fields(string(line)); len(fields) > 1 && fields[0] == "rpc" {
			return strconv.Atoi(fields[1])
		}
	}
	return 0, fmt.Errorf("no line rpc in %q", text)
}
