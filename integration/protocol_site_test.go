//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/bundle"
	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

const (
	// siteFileSystem is where the plugin of these tests has its volumes.
	siteFileSystem = "nfs://10.77.0.11/export"
	siteBundle     = "../build/plugin-amd64"
	// siteDriver is how the Engine calls the plugin.
	siteDriver = bundle.Name + ":latest"
	// siteWarm is how long a volume stays mounted after its last use, and then
	// some.
	siteWarm = 10*time.Second + 5*time.Second
	// siteLabel is what all volumes of these tests have, as KEY=VALUE.
	siteLabel = "tier=db"
)

// site is what a test has of the hosts: host-a and host-b, or one of them, with the
// managed plugin in its Engine.
type site struct {
	t     *testing.T
	lab   *lab.Lab
	a, b  *lab.Host // nil if the test shares the hosts with others
	hosts []*siteHost
	// volumes are the test's: the catalogue on the server is everybody's.
	volumes []string
}

// siteHost is one of a site's hosts.
type siteHost struct {
	*site
	h      *lab.Host
	id     string // of the plugin
	engine *http.Client
}

// siteHosts has the hosts that no test uses. Tests that need one host run beside
// each other, those that need both or that break the server by themselves.
var siteHosts struct {
	once sync.Once
	free chan *lab.Host
}

// oneHost gives the test, which may run beside others, a host for itself.
func oneHost(t *testing.T) *siteHost {
	t.Helper()
	beside(t)
	l := hosts(t)
	siteHosts.once.Do(func() {
		siteHosts.free = make(chan *lab.Host, 2)
		siteHosts.free <- l.Host("host-a")
		siteHosts.free <- l.Host("host-b")
	})
	h := <-siteHosts.free
	t.Cleanup(func() { siteHosts.free <- h })
	s := &site{t: t, lab: l}
	s.open(h)
	return s.hosts[0]
}

// newSite gives the test both hosts and the server.
func newSite(t *testing.T) *site {
	t.Helper()
	alone(t)
	l := hosts(t)
	s := &site{t: t, lab: l, a: l.Host("host-a"), b: l.Host("host-b")}
	s.open(s.a, s.b)
	return s
}

func bothHosts(t *testing.T) (a, b *siteHost) {
	t.Helper()
	s := newSite(t)
	return s.hosts[0], s.hosts[1]
}

// open has the plugin installed and enabled. At the test's end it removes all
// containers on the hosts and the test's volumes, and fails the test if it
// left a count or a mount.
func (s *site) open(hosts ...*lab.Host) {
	s.t.Helper()
	var group sync.WaitGroup
	for _, h := range hosts {
		one := &siteHost{site: s, h: h, engine: socketClient(h, "/run/docker.sock")}
		s.hosts = append(s.hosts, one)
		group.Go(func() {
			if err := one.install(s.t.Context()); err != nil {
				s.t.Errorf("%s: %v", h.Name(), err)
			}
		})
	}
	group.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	s.t.Cleanup(s.leaveNothing)
	for _, one := range s.hosts {
		s.eventually(time.Minute, one.h.Name()+" has its file system, whatever an earlier test did to the server", one.creates)
	}
}

// creates tells whether the plugin can make a volume, which it then removes.
func (s *siteHost) creates() bool {
	_, err := s.call(s.t.Context(), "Create", `{"Name":"ready","Opts":{"remove":"delete"}}`)
	if err == nil {
		_, err = s.call(s.t.Context(), "Remove", `{"Name":"ready"}`)
	}
	return err == nil
}

// leaveNothing removes what the test made and checks that nothing is left.
func (s *site) leaveNothing() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	must := func(err error) {
		if err != nil {
			s.t.Errorf("clean up: %v", err)
		}
	}
	// Containers first, on all hosts; then no count may be left, and then no mount.
	for _, one := range s.hosts {
		must(one.removeContainers(ctx))
		for _, m := range one.overview(ctx).Mounted {
			if len(m.Mounts) > 0 {
				s.t.Errorf("%s still counts %v for volume %s", one.h.Name(), m.Mounts, m.Volume)
			}
		}
	}
	for _, one := range s.hosts {
		names := s.volumes
		if s.a != nil { // nobody else's volumes are there
			all, err := one.listed(ctx)
			must(err)
			names = all
		}
		for _, name := range names {
			status, text, err := request(ctx, one.engine, http.MethodDelete, "/volumes/"+name+"?force=1", "")
			if err == nil && status >= http.StatusBadRequest && status != http.StatusNotFound {
				err = fmt.Errorf("remove volume %s: %d %s", name, status, text)
			}
			must(err)
		}
	}
	for _, one := range s.hosts { // what another host has removed stays for the warm time
		_, err := one.h.Run(ctx, unmounted("/"))
		must(err)
		one.engine.CloseIdleConnections()
	}
}

// unmounted is a line of shell that waits until nothing whose path begins so is
// mounted in the plugin's directory for volumes.
func unmounted(path string) string {
	pattern := "/propagated-mount/volumes" + path
	return fmt.Sprintf(`for i in $(seq %d); do grep -q '%s' /proc/self/mountinfo || exit 0; sleep 0.3; done
		grep '%[2]s' /proc/self/mountinfo >&2; exit 1`, int(siteWarm/(300*time.Millisecond)), pattern)
}

func (s *siteHost) removeContainers(ctx context.Context) error {
	var containers []struct{ ID string }
	if err := getJSON(ctx, s.engine, "/containers/json?all=1", &containers); err != nil {
		return err
	}
	for _, c := range containers {
		status, text, err := request(ctx, s.engine, http.MethodDelete, "/containers/"+c.ID+"?force=1&v=1", "")
		if err == nil && status >= http.StatusBadRequest && status != http.StatusNotFound {
			err = fmt.Errorf("remove container: %d %s", status, text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sh runs a line of shell on a host and fails the test if it fails.
func (s *site) sh(h *lab.Host, line string) string {
	s.t.Helper()
	return run(s.t, h, line)
}

// eventually asks several times a second whether something is so. What takes the
// host work to find out is better waited for there.
func (s *site) eventually(limit time.Duration, what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(limit); !is(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// sh runs a line of shell on the host and fails the test if it fails.
func (s *siteHost) sh(line string) string {
	s.t.Helper()
	return run(s.t, s.h, line)
}

// fails runs a line of shell, which must fail within the limit, and returns what
// it said.
func (s *siteHost) fails(limit time.Duration, line string) string {
	s.t.Helper()
	start := time.Now()
	out, err := s.h.Run(s.t.Context(), line)
	var exit *lab.ExitError
	if !errors.As(err, &exit) {
		s.t.Fatalf("%s: %s: got %q, %v, want a failure", s.h.Name(), line, out, err)
	}
	if took := time.Since(start); took > limit {
		s.t.Errorf("%s: %s: failed after %v, want %v", s.h.Name(), line, took, limit)
	}
	return exit.Stderr
}

// volume makes a volume of the test's, with options KEY=VALUE and the label
// that all have.
func (s *siteHost) volume(name string, options ...string) {
	s.t.Helper()
	s.volumes = append(s.volumes, name)
	if status, message := s.create(name, options...); status >= http.StatusBadRequest {
		s.t.Fatalf("%s: create %s: %d %s", s.h.Name(), name, status, message)
	}
}

// try runs a container with a volume at /data until its command ends.
func (s *siteHost) try(volume, command string) string {
	s.t.Helper()
	return s.sh(tryLine(volume, command))
}

func tryLine(volume, command string) string {
	return "docker run --rm --network none -v " + volume + ":/data busybox " + command
}

// command is the line of shell that runs one of the plugin's own commands, see docs/operation.md.
func (s *siteHost) command(words string) string {
	dir := "/var/lib/docker/plugins/" + s.id
	return dir + "/rootfs/docker-volume-efs " + words + " --data " + dir + "/propagated-mount"
}

// works waits until containers can use a volume: a server that was restarted
// first lets its old clients come back.
func (s *siteHost) works(volume string) {
	s.t.Helper()
	s.eventually(time.Minute, "a container can use "+volume, func() bool {
		_, err := s.h.Run(s.t.Context(), tryLine(volume, "touch /data/works"))
		return err == nil
	})
}

// writer starts a container with a volume, of the same name, that appends a line to
// /data/log five times a second.
func (s *siteHost) writer(volume string) {
	s.t.Helper()
	s.sh("docker run -d --name " + volume + " --network none -v " + volume + ":/data" +
		" busybox sh -c 'while :; do echo x >>/data/log || exit 1; sleep 0.2; done'")
	s.writes(volume, 1)
}

// writes waits until the server has n more lines in a volume's log.
func (s *siteHost) writes(volume string, n int) {
	s.t.Helper()
	count := func() int {
		text, _ := os.ReadFile(filepath.Join(s.lab.Server.Dir("/export"), volume, "log"))
		return bytes.Count(text, []byte("\n"))
	}
	before := count()
	s.eventually(30*time.Second, fmt.Sprintf("the container writes %d lines into %s", n, volume), func() bool { return count() >= before+n })
}

// detached waits until a volume that nobody uses is no longer mounted.
func (s *siteHost) detached(volume string) {
	s.t.Helper()
	s.sh(unmounted("/" + volume + " "))
}

// kernelMount is the kernel's ID of a volume's mount, as the host sees it; empty
// when it is not mounted.
func (s *siteHost) kernelMount(volume string) string {
	s.t.Helper()
	return s.sh("awk '$5 ~ \"/propagated-mount/volumes/" + volume + "$\" { print $1; exit }' /proc/self/mountinfo")
}

// killPlugin kills the plugin's process and waits until the Engine has started
// it again.
func (s *siteHost) killPlugin() {
	s.t.Helper()
	s.sh("kill -KILL $(" + pluginPID + ")")
	s.eventually(20*time.Second, "the plugin is there again", func() bool {
		_, err := s.call(s.t.Context(), "Capabilities", "{}")
		return err == nil
	})
}

// pluginPID finds the plugin's process.
const pluginPID = "pgrep -fx '/docker-volume-efs serve'"
