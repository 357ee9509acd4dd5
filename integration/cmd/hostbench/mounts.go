package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// options are the same for all peers: AWS's for EFS.
const options = "nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"

func peerDir(name string) (string, error) {
	dir := filepath.Join(baseDir, "peers", name)
	return dir, os.MkdirAll(dir, 0o755)
}

// mountCommand is mount -t nfs4.
func mountCommand(server, export, dir string) error {
	out, err := exec.Command("mount", "-t", "nfs4", "-o", options, server+":"+export, dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mount -t nfs4: %w: %s", err, out)
	}
	return nil
}

// mountCall is what Docker's local driver does for type=nfs: one mount(2).
func mountCall(server, export, dir string) error {
	return unix.Mount(":"+export, dir, "nfs", 0, options+",addr="+server+",clientaddr="+localAddress(server))
}

func localAddress(server string) string {
	conn, err := net.Dial("udp", server+":2049")
	if err != nil {
		return "0.0.0.0"
	}
	defer conn.Close()
	host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	return host
}

// further measures the mount of a volume whose file system is in use, peers taking
// turns.
func further(c config) (any, error) {
	if err := fresh(); err != nil {
		return nil, err
	}
	s, _, err := serve(c, "nfs://"+c.server+"/export")
	if err != nil {
		return nil, err
	}
	defer s.stop() //nolint:errcheck // what was measured is measured
	for i := range c.rounds {
		if err := s.call("Create", volume{Name: fmt.Sprintf("bench%d", i)}); err != nil {
			return nil, err
		}
	}
	standing, err := peerDir("standing")
	if err != nil {
		return nil, err
	}
	if err := mountCommand(c.server, "/export", standing); err != nil {
		return nil, err
	}
	defer unix.Unmount(standing, unix.MNT_DETACH) //nolint:errcheck // the host ends anyway
	time.Sleep(3 * time.Second)                   // as volumes in use are: not made this very moment
	all := map[string]*Times{"plugin": {}, "mount -t nfs4": {}, "mount(2)": {}}
	for i := range c.rounds {
		if err := furtherOnce(c, s, i, all); err != nil {
			return nil, err
		}
	}
	return summaries(all), nil
}

func furtherOnce(c config, s *service, i int, all map[string]*Times) error {
	name := fmt.Sprintf("bench%d", i)
	if err := timed(all["plugin"], func() error { return s.call("Mount", volume{Name: name, ID: "bench"}) }); err != nil {
		return err
	}
	if err := s.call("Unmount", volume{Name: name, ID: "bench"}); err != nil {
		return err
	}
	dir, err := peerDir("turn")
	if err != nil {
		return err
	}
	for peer, mount := range map[string]func(server, export, dir string) error{"mount -t nfs4": mountCommand, "mount(2)": mountCall} {
		if err := timed(all[peer], func() error { return mount(c.server, "/export/"+name, dir) }); err != nil {
			return err
		}
		if err := unix.Unmount(dir, 0); err != nil {
			return err
		}
	}
	return nil
}

// first measures the first mount of a file system: the server is known to
// nobody on this host before each.
func first(c config) (any, error) {
	if err := fresh(); err != nil {
		return nil, err
	}
	all := map[string]*Times{"plugin": {}, "mount -t nfs4": {}, "mount(2)": {}}
	elsewhere := map[string]string{"filesystem": "nfs://" + c.other + "/export"}
	dir, err := peerDir("turn")
	if err != nil {
		return nil, err
	}
	for range c.rounds {
		s, _, err := serve(c, "dir:")
		if err != nil {
			return nil, err
		}
		if err := s.call("Create", volume{Name: "first", Opts: elsewhere}); err != nil {
			return nil, err
		}
		// Another process knows the volume and has no connection.
		if err := s.stop(); err != nil {
			return nil, err
		}
		if s, _, err = serve(c, "dir:"); err != nil {
			return nil, err
		}
		if err := s.call("List", struct{}{}); err != nil {
			return nil, err
		}
		if err := timed(all["plugin"], func() error { return s.call("Mount", volume{Name: "first", ID: "bench"}) }); err != nil {
			return nil, err
		}
		if err := s.call("Remove", volume{Name: "first"}); err != nil {
			return nil, err
		}
		if err := s.stop(); err != nil {
			return nil, err
		}
		for peer, mount := range map[string]func(server, export, dir string) error{"mount -t nfs4": mountCommand, "mount(2)": mountCall} {
			if err := timed(all[peer], func() error { return mount(c.other, "/export", dir) }); err != nil {
				return nil, err
			}
			if err := unix.Unmount(dir, 0); err != nil {
				return nil, err
			}
		}
	}
	return summaries(all), nil
}

// engine measures the mount through Docker: asking a container that does not run
// for a file makes the Engine mount its volumes. Without a volume it is the Engine's own
// share.
func engine(c config) (any, error) {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", "/var/run/docker.sock")
	}}}
	all := map[string]*Times{"plugin": {}, "local driver, type=nfs": {}, "no volume": {}}
	for i := range c.rounds {
		for peer, container := range map[string]string{"plugin": "efs", "local driver, type=nfs": "local", "no volume": "none"} {
			url := fmt.Sprintf("http://docker/containers/%s%d/archive?path=/etc", container, i)
			err := timed(all[peer], func() error {
				response, err := client.Head(url)
				if err != nil {
					return err
				}
				defer response.Body.Close()
				if response.StatusCode != http.StatusOK {
					return fmt.Errorf("%s: %s", url, response.Status)
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return summaries(all), nil
}

// parallel measures 100 containers' mounts and unmounts on 50 volumes, while a
// further file system is dead (if the other server does not answer).
func parallel(c config) (any, error) {
	const containers, volumes = 100, 50
	if err := fresh(); err != nil {
		return nil, err
	}
	s, _, err := serve(c, "nfs://"+c.server+"/export")
	if err != nil {
		return nil, err
	}
	defer s.stop() //nolint:errcheck // what was measured is measured
	for i := range volumes {
		if err := s.call("Create", volume{Name: fmt.Sprintf("bench%d", i)}); err != nil {
			return nil, err
		}
	}
	var dead sync.WaitGroup
	if c.other != "" {
		for i := range 8 {
			dead.Go(func() {
				_ = s.call("Create", volume{Name: fmt.Sprintf("dead%d", i), Opts: map[string]string{"filesystem": "nfs://" + c.other + "/export"}})
			})
		}
		time.Sleep(200 * time.Millisecond)
	}
	times, err := mountAll(s, containers, volumes)
	dead.Wait()
	return map[string]Summary{"mount and unmount": times.summary()}, err
}

func mountAll(s *service, containers, volumes int) (Times, error) {
	var mu sync.Mutex
	var times Times
	var failure error
	var group sync.WaitGroup
	for i := range containers {
		group.Go(func() {
			name, id := fmt.Sprintf("bench%d", i%volumes), fmt.Sprintf("container%d", i)
			var own Times
			err := timed(&own, func() error {
				if err := s.call("Mount", volume{Name: name, ID: id}); err != nil {
					return err
				}
				return s.call("Unmount", volume{Name: name, ID: id})
			})
			mu.Lock()
			defer mu.Unlock()
			times = append(times, own...)
			if err != nil {
				failure = err
			}
		})
	}
	group.Wait()
	return times, failure
}
