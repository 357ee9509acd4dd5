//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/bundle"
	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

// socketClient speaks HTTP with a Unix socket on a host. The Engine's API takes
// what no shell does, and costs an emulated host less than the docker command.
func socketClient(h *lab.Host, socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return h.Dial(ctx, "unix", socket) },
	}}
}

func request(ctx context.Context, client *http.Client, method, path, body string) (status int, answer string, err error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, strings.NewReader(body))
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

// errNotThere is an answer with the status 404.
var errNotThere = errors.New("not there")

func getJSON(ctx context.Context, client *http.Client, path string, into any) error {
	status, answer, err := request(ctx, client, http.MethodGet, path, "")
	switch {
	case err != nil:
		return err
	case status == http.StatusNotFound:
		return fmt.Errorf("%w: %s", errNotThere, answer)
	case status != http.StatusOK:
		return fmt.Errorf("%s: %d %s", path, status, answer)
	}
	return json.Unmarshal([]byte(answer), into)
}

// siteData leads to the plugin's data directory on a host. The directory's own
// path is too long for a socket's.
const siteData = "/run/efs"

// install installs and enables the plugin, unless it is there.
func (s *siteHost) install(ctx context.Context) error {
	defer lockBundle(s.h).Unlock()
	var plugin struct {
		ID       string
		Enabled  bool
		Settings struct{ Env []string }
	}
	const path = "/plugins/" + bundle.Name + "/json"
	err := getJSON(ctx, s.engine, path, &plugin)
	if errors.Is(err, errNotThere) {
		if err := bundle.Install(ctx, s.h, siteBundle, "EFS_FILESYSTEM="+siteFileSystem, "EFS_LOG_LEVEL=debug"); err != nil {
			return err
		}
		err = getJSON(ctx, s.engine, path, &plugin)
	}
	if err != nil {
		return err
	}
	if env := plugin.Settings.Env; !slices.Contains(env, "EFS_FILESYSTEM="+siteFileSystem) || !slices.Contains(env, "EFS_LOG_LEVEL=debug") {
		return fmt.Errorf("here is another test's plugin, with the settings %q", env)
	}
	s.id = plugin.ID
	line := "ln -sfn /var/lib/docker/plugins/" + plugin.ID + "/propagated-mount " + siteData
	if !plugin.Enabled {
		line += " && docker plugin enable " + bundle.Name
	}
	_, err = s.h.Run(ctx, line)
	return err
}

// create asks the Engine for a volume and returns the status and what the Engine
// says.
func (s *siteHost) create(name string, options ...string) (status int, message string) {
	s.t.Helper()
	body, err := json.Marshal(map[string]any{"Name": name, "Driver": bundle.Name, "Labels": pairs(siteLabel), "DriverOpts": pairs(options...)})
	if err != nil {
		s.t.Fatal(err)
	}
	status, answer, err := request(s.t.Context(), s.engine, http.MethodPost, "/volumes/create", string(body))
	var said struct{ Message string }
	if err == nil {
		err = json.Unmarshal([]byte(answer), &said)
	}
	if err != nil {
		s.t.Errorf("%s: create %q: %d %s, %v", s.h.Name(), name, status, answer, err)
	}
	return status, said.Message
}

func pairs(texts ...string) map[string]string {
	all := map[string]string{}
	for _, text := range texts {
		key, value, _ := strings.Cut(text, "=")
		all[key] = value
	}
	return all
}

// siteVolume is what docker volume inspect shows.
type siteVolume struct {
	Driver, Scope   string
	Labels, Options map[string]string
	Status          struct {
		Path      string
		CreatedBy string `json:"created_by"`
		Options   map[string]string
		Trouble   []string
	}
}

// inspect asks the Engine for a volume, which has to have the label that all have.
func (s *siteHost) inspect(volume string) (v siteVolume) {
	s.t.Helper()
	if err := getJSON(s.t.Context(), s.engine, "/volumes/"+volume, &v); err != nil {
		s.t.Fatalf("%s: inspect %s: %v", s.h.Name(), volume, err)
	}
	if key, value, _ := strings.Cut(siteLabel, "="); v.Labels[key] != value {
		s.t.Errorf("%s: volume %s has the labels %v", s.h.Name(), volume, v.Labels)
	}
	return v
}

// volumeStatus asks the Engine for a field of a volume's Status; what is not in it is "".
func volumeStatus(t *testing.T, engine *http.Client, volume, field string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var v struct{ Status map[string]any }
	if err := getJSON(ctx, engine, "/volumes/"+volume, &v); err != nil {
		t.Fatalf("inspect %s: %v", volume, err)
	}
	value, there := v.Status[field]
	if !there {
		return ""
	}
	return fmt.Sprint(value)
}

// lists tells whether docker volume ls shows a volume.
func (s *siteHost) lists(volume string) bool {
	s.t.Helper()
	names, err := s.listed(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return slices.Contains(names, volume)
}

func (s *siteHost) listed(ctx context.Context) (names []string, err error) {
	var list struct {
		Volumes []struct{ Name, Driver string }
	}
	err = getJSON(ctx, s.engine, "/volumes", &list)
	for _, v := range list.Volumes {
		if v.Driver == siteDriver {
			names = append(names, v.Name)
		}
	}
	return names, err
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
	client := socketClient(s.h, siteData+"/control.sock")
	defer client.CloseIdleConnections()
	// The control socket comes a moment after Docker's, which is there before the worker.
	var err error
	for begun := time.Now(); time.Since(begun) < 10*time.Second; time.Sleep(100 * time.Millisecond) {
		if err = getJSON(ctx, client, "/status.json", &o); err == nil {
			return o
		}
	}
	s.t.Errorf("%s: ask the plugin for its status: %v", s.h.Name(), err)
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

// plugin is a client of the socket on which the Engine asks the plugin.
func (s *siteHost) plugin() *http.Client {
	return socketClient(s.h, "/run/docker/plugins/"+s.id+"/efs.sock")
}

// call asks the plugin past the Engine and returns the answer, or the error in
// it.
func (s *siteHost) call(ctx context.Context, name, body string) (string, error) {
	client := s.plugin()
	defer client.CloseIdleConnections()
	return ask(ctx, client, name, body)
}

func ask(ctx context.Context, client *http.Client, call, body string) (string, error) {
	status, answer, err := request(ctx, client, http.MethodPost, "/VolumeDriver."+call, body)
	if err == nil && status != http.StatusOK {
		err = errors.New(answer)
	}
	return answer, err
}

// pluginCall is one line of the plugin's log.
type pluginCall struct {
	level, call, volume, id, outcome string
	took                             time.Duration
}

// The Engine's line has the plugin's inside, with its quotes escaped.
var pluginLine = regexp.MustCompile(`level=(\w+) msg="time=.* call=(\w+) (?:mount=(\S+) )?outcome=(\w+|\\".*?\\") took=(\S+)(?: volume=([^" ]+))?`)

// calls returns the calls for a volume that changed something, since mark, as the
// Engine has them in its log.
func (s *siteHost) calls(mark, volume string) (calls []pluginCall) {
	s.t.Helper()
	text := s.sh("tail -c +" + mark + " /run/dockerd.log | grep ' call=' || true")
	for line := range strings.Lines(text) {
		m := pluginLine.FindStringSubmatch(line)
		if m == nil || m[6] != volume || m[2] == "Get" || m[2] == "Path" {
			continue
		}
		took, err := time.ParseDuration(m[5])
		if err != nil {
			s.t.Fatalf("%q: %v", line, err)
		}
		calls = append(calls, pluginCall{level: m[1], call: m[2], id: m[3], outcome: strings.Trim(m[4], `\"`), took: took, volume: m[6]})
	}
	return calls
}

// mark is the present end of the Engine's log, for calls.
func (s *siteHost) mark() string {
	s.t.Helper()
	return s.sh("echo $(($(wc -c </run/dockerd.log) + 1))")
}
