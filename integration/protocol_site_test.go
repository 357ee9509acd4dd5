//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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
	// siteWarm is how long a volume stays mounted after its last use, and then
	// some.
	siteWarm = 10*time.Second + 5*time.Second
	// siteDriver is how the Engine calls the plugin.
	siteDriver = bundle.Name + ":latest"
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
	h  *lab.Host
	id string // of the plugin
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
	t.Parallel()
	l := hosts(t)
	siteHosts.once.Do(func() {
		siteHosts.free = make(chan *lab.Host, len(l.Hosts()))
		for _, h := range l.Hosts() {
			siteHosts.free <- h
		}
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
	s.hosts = make([]*siteHost, len(hosts))
	var group sync.WaitGroup
	for i, h := range hosts {
		group.Go(func() {
			id, err := installed(s.t.Context(), h)
			if err != nil {
				s.t.Error(err)
			}
			s.hosts[i] = &siteHost{site: s, h: h, id: id}
		})
	}
	group.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	s.t.Cleanup(s.leaveNothing)
}

// siteData leads to the plugin's data directory on a host. The directory's own
// path is too long for a socket's.
const siteData = "/run/efs"

// installed installs and enables the plugin unless it is, and returns its ID.
func installed(ctx context.Context, h *lab.Host) (id string, err error) {
	const ask = "docker plugin inspect -f '{{.Id}} {{.Enabled}}{{range .Settings.Env}} {{.}}{{end}}' " + bundle.Name
	out, err := h.Run(ctx, ask)
	if _, unknown := errors.AsType[*lab.ExitError](err); unknown {
		if err := bundle.Install(ctx, h, siteBundle, "EFS_FILESYSTEM="+siteFileSystem, "EFS_LOG_LEVEL=debug"); err != nil {
			return "", err
		}
		out, err = h.Run(ctx, ask)
	}
	if err != nil {
		return "", err
	}
	words := strings.Fields(out)
	if !slices.Contains(words, "EFS_FILESYSTEM="+siteFileSystem) || !slices.Contains(words, "EFS_LOG_LEVEL=debug") {
		return "", fmt.Errorf("%s has another test's plugin: %s", h.Name(), out)
	}
	line := "ln -sfn /var/lib/docker/plugins/" + words[0] + "/propagated-mount " + siteData
	if words[1] != "true" {
		line += " && docker plugin enable " + bundle.Name
	}
	_, err = h.Run(ctx, line)
	return words[0], err
}

// leaveNothing removes what the test made and checks that nothing is left.
func (s *site) leaveNothing() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	sweep := func(h *lab.Host, line string) {
		if _, err := h.Run(ctx, line); err != nil {
			s.t.Errorf("clean up: %v", err)
		}
	}
	// Containers first, on all hosts; then no count may be left, and then no mount.
	for _, one := range s.hosts {
		sweep(one.h, "docker ps -aq | xargs -r docker rm -f >/dev/null")
		for _, m := range one.overview(ctx).Mounted {
			if len(m.Mounts) > 0 {
				s.t.Errorf("%s still counts %v for volume %s", one.h.Name(), m.Mounts, m.Volume)
			}
		}
	}
	for _, one := range s.hosts {
		switch {
		case s.a != nil: // nobody else's volumes are there
			sweep(one.h, "docker volume ls -q -f driver="+siteDriver+" | xargs -r docker volume rm -f >/dev/null")
		case len(s.volumes) > 0:
			sweep(one.h, "docker volume rm -f "+strings.Join(s.volumes, " ")+" >/dev/null")
		}
		// What another host has removed stays for the warm time.
		sweep(one.h, `for i in $(seq 150); do
			grep -q /propagated-mount/volumes/ /proc/self/mountinfo || exit 0; sleep 0.1
		done; grep /propagated-mount/volumes/ /proc/self/mountinfo >&2; exit 1`)
	}
}

// sh runs a line of shell on a host and fails the test if it fails.
func (s *site) sh(h *lab.Host, line string) string {
	s.t.Helper()
	return run(s.t, h, line)
}

func (s *site) eventually(limit time.Duration, what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(limit); !is(); time.Sleep(100 * time.Millisecond) {
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

// volume makes a volume of the test's; options are words of docker volume create.
func (s *siteHost) volume(name string, options ...string) {
	s.t.Helper()
	s.volumes = append(s.volumes, name)
	s.sh("docker volume create -d " + bundle.Name + " " + strings.Join(options, " ") + " " + name)
}

// try runs a container with a volume at /data until its command ends.
func (s *siteHost) try(volume, command string) string {
	s.t.Helper()
	return s.sh(tryLine(volume, command))
}

func tryLine(volume, command string) string {
	return "docker run --rm --network none -v " + volume + ":/data busybox " + command
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

// writer makes a volume, if there is none, and starts a container of its name
// that appends a line to /data/log ten times a second.
func (s *siteHost) writer(volume string) {
	s.t.Helper()
	s.volumes = append(s.volumes, volume)
	s.sh("docker run -d --name " + volume + " --network none --volume-driver " + bundle.Name + " -v " + volume + ":/data" +
		" busybox sh -c 'while :; do echo x >>/data/log || exit 1; sleep 0.1; done'")
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

// inspect reads fields of docker volume inspect by a template.
func (s *siteHost) inspect(volume, template string) string {
	s.t.Helper()
	return s.sh("docker volume inspect -f '" + template + "' " + volume)
}

// lists tells whether docker volume ls shows a volume.
func (s *siteHost) lists(volume string) bool {
	s.t.Helper()
	return slices.Contains(strings.Fields(s.sh("docker volume ls -q -f driver="+siteDriver)), volume)
}

// siteOverview is what the plugin says on its control socket.
type siteOverview struct {
	Mounted []struct {
		Volume string
		Mounts map[string]int
	}
}

func (s *siteHost) overview(ctx context.Context) (o siteOverview) {
	s.t.Helper()
	client := s.client(siteData + "/control.sock")
	defer client.CloseIdleConnections()
	answer, err := get(ctx, client, "/status.json")
	if err == nil {
		err = json.Unmarshal(answer, &o)
	}
	if err != nil {
		s.t.Errorf("%s: ask the plugin for its status: %v", s.h.Name(), err)
	}
	return o
}

// counts are a volume's mounts by mount ID; nil when it is not mounted.
func (s *siteHost) counts(volume string) map[string]int {
	s.t.Helper()
	for _, m := range s.overview(s.t.Context()).Mounted {
		if m.Volume == volume {
			if m.Mounts == nil {
				return map[string]int{}
			}
			return m.Mounts
		}
	}
	return nil
}

// onlyID returns the one mount ID that has a volume mounted, once.
func (s *siteHost) onlyID(volume string) string {
	s.t.Helper()
	counts := s.counts(volume)
	for id, n := range counts {
		if len(counts) == 1 && n == 1 {
			return id
		}
	}
	s.t.Fatalf("%s counts %v for volume %s, want one mount", s.h.Name(), counts, volume)
	return ""
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

// client speaks HTTP with a Unix socket on a host.
func (s *siteHost) client(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.h.Dial(ctx, "unix", socket) },
	}}
}

// socket is where the Engine asks the plugin.
func (s *siteHost) socket() string { return "/run/docker/plugins/" + s.id + "/efs.sock" }

// call asks the plugin past the Engine and returns the answer, or the error in
// it.
func (s *siteHost) call(ctx context.Context, name, body string) (string, error) {
	client := s.client(s.socket())
	defer client.CloseIdleConnections()
	return ask(ctx, client, name, body)
}

func ask(ctx context.Context, client *http.Client, call, body string) (string, error) {
	status, answer, err := postJSON(ctx, client, "/VolumeDriver."+call, body)
	if err == nil && status != http.StatusOK {
		err = errors.New(answer)
	}
	return answer, err
}

func get(ctx context.Context, client *http.Client, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

func postJSON(ctx context.Context, client *http.Client, path, body string) (status int, answer string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker"+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return response.StatusCode, string(content), err
}

// engineSocket is where Docker answers.
const engineSocket = "/run/docker.sock"

// create asks the Engine for a volume by its API, which takes what no shell
// does, and returns the status and what the Engine says.
func (s *siteHost) create(name string, labels map[string]string) (status int, message string) {
	s.t.Helper()
	client := s.client(engineSocket)
	defer client.CloseIdleConnections()
	body, err := json.Marshal(map[string]any{"Name": name, "Driver": bundle.Name, "Labels": labels})
	if err != nil {
		s.t.Fatal(err)
	}
	status, answer, err := postJSON(s.t.Context(), client, "/volumes/create", string(body))
	var said struct{ Message string }
	if err == nil {
		err = json.Unmarshal([]byte(answer), &said)
	}
	if err != nil {
		s.t.Errorf("create %q: %d %s, %v", name, status, answer, err)
	}
	return status, said.Message
}

// pluginCall is one line of the plugin's log.
type pluginCall struct{ level, call, volume, id, outcome string }

// The Engine's line has the plugin's inside, with its quotes escaped.
var pluginLine = regexp.MustCompile(`level=(\w+) msg="time=.* call=(\w+) (?:mount=(\S+) )?outcome=(\w+|\\".*?\\") took=\S+(?: volume=([^" ]+))?`)

// calls returns the calls for a volume that changed something, since mark, as the
// Engine has them in its log.
func (s *siteHost) calls(mark, volume string) (calls []pluginCall) {
	s.t.Helper()
	text := s.sh("tail -c +" + mark + " /run/dockerd.log | grep ' call=' || true")
	for line := range strings.Lines(text) {
		m := pluginLine.FindStringSubmatch(line)
		if m == nil || m[5] != volume || m[2] == "Get" || m[2] == "Path" {
			continue
		}
		calls = append(calls, pluginCall{level: m[1], call: m[2], id: m[3], outcome: strings.Trim(m[4], `\"`), volume: m[5]})
	}
	return calls
}

// mark is the present end of the Engine's log, for calls.
func (s *siteHost) mark() string {
	s.t.Helper()
	return s.sh("echo $(($(wc -c </run/dockerd.log) + 1))")
}
