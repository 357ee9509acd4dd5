package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// queries measures List and Get with many volumes. The server may have been
// stopped meanwhile: then the plugin is started on what it knows.
func queries(c config) (any, error) {
	s, _, err := serve(c, "nfs://"+c.server+"/export")
	if err != nil {
		return nil, err
	}
	defer s.stop() //nolint:errcheck // what was measured is measured
	if err := awaitVolumes(s, c.volumes); err != nil {
		return nil, err
	}
	all := map[string]*Times{"List": {}, "Get": {}, "Capabilities": {}}
	for i := range c.rounds {
		// An answer that is a constant: what the host's HTTP costs by itself.
		if err := timed(all["Capabilities"], func() error { return s.call("Capabilities", struct{}{}) }); err != nil {
			return nil, err
		}
		if err := timed(all["List"], func() error { return s.call("List", struct{}{}) }); err != nil {
			return nil, err
		}
		name := fmt.Sprintf("many%d", i*c.volumes/c.rounds)
		if err := timed(all["Get"], func() error { return s.call("Get", volume{Name: name}) }); err != nil {
			return nil, err
		}
	}
	return summaries(all), nil
}

// awaitVolumes waits until the plugin knows all volumes: it learns them batch by
// batch, and what is asked meanwhile would be measured beside that work.
func awaitVolumes(s *service, count int) error {
	var known struct{ Volumes []struct{ Name string } }
	for begin := time.Now(); time.Since(begin) < 5*time.Minute; time.Sleep(time.Second) {
		if err := s.ask("List", struct{}{}, &known); err != nil {
			return err
		}
		if len(known.Volumes) >= count {
			time.Sleep(5 * time.Second) // what is still at work beside it
			return nil
		}
	}
	return fmt.Errorf("the plugin knows %d of %d volumes after 5 minutes", len(known.Volumes), count)
}

// start measures from the start of the process to a socket that takes connections, and to the
// first answer.
func start(c config) (any, error) {
	all := map[string]*Times{"start": {}, "answer": {}}
	for range c.rounds {
		s, took, err := serve(c, "nfs://"+c.server+"/export")
		if err != nil {
			return nil, err
		}
		all["start"].add(took)
		begin := time.Now()
		if err := s.call("List", struct{}{}); err != nil {
			return nil, err
		}
		all["answer"].add(took + time.Since(begin))
		if err := s.stop(); err != nil {
			return nil, err
		}
	}
	return summaries(all), nil
}

// memory is the resident memory of an idle plugin, in MiB: of all its processes, what
// they share, as the program itself, counted once (Pss, proc_pid_smaps(5)).
func memory(c config) (any, error) {
	s, _, err := serve(c, "nfs://"+c.server+"/export")
	if err != nil {
		return nil, err
	}
	defer s.stop() //nolint:errcheck // what was measured is measured
	if err := s.call("List", struct{}{}); err != nil {
		return nil, err
	}
	time.Sleep(10 * time.Second)
	processes, err := s.processes()
	if err != nil {
		return nil, err
	}
	total := 0.0
	for _, process := range processes {
		mib, err := resident(process)
		if err != nil {
			return nil, err
		}
		total += mib
	}
	return map[string]float64{"MiB": total}, nil
}

func resident(pid int) (mib float64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("no Pss of process %d", pid)
}
