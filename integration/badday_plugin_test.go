//go:build integration

package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/bundle"
	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

const (
	// bareBundle is what make rootfs builds.
	bareBundle = "../build/plugin-amd64"
	// bareCallLimit is how long Docker waits for an answer.
	bareCallLimit = 30 * time.Second
	// bareWarm is how long a volume stays mounted after its last use.
	bareWarm = 10 * time.Second
	// bareCatalogue is the catalogue's directory on a file system.
	bareCatalogue = ".docker-volume-efs"
)

// barePlugin is the plugin's program on a host by itself, without an Engine: tests
// speak to its socket as Docker does. Each has a data directory and, unless told
// otherwise, a root directory on the file system of its own, so that tests on the same
// hosts do not see each other.
type barePlugin struct {
	t        *testing.T
	lab      *lab.Lab
	host     *lab.Host
	dir      string   // on the host: socket, log, pid; the data directory is dir/data
	settings []string // KEY=VALUE, later ones win
	docker   *http.Client
	control  *http.Client
	outside  *outside
}

// bareRoot is a fresh directory on the server's /export, as EFS_ROOT wants it.
// The name is never used twice: the server remembers names for a while.
func bareRoot(t *testing.T, l *lab.Lab) string {
	root := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())) + "-" + rand.Text()[:4]
	dir := filepath.Join(l.Server.Dir("/export"), root)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return "/" + root
}

// startBare starts a plugin on a host, with the first server's /export as its file
// system and a root of its own there, if settings do not say otherwise. The
// test's end checks that nothing is left behind.
func startBare(t *testing.T, l *lab.Lab, host string, settings ...string) *barePlugin {
	t.Helper()
	p := makeBare(t, l, host, settings...)
	p.start()
	return p
}

// makeBare is startBare without the start.
func makeBare(t *testing.T, l *lab.Lab, host string, settings ...string) *barePlugin {
	t.Helper()
	h := l.Host(host)
	bareUpload(t, h)
	p := &barePlugin{t: t, lab: l, host: h, dir: "/bare/" + rand.Text()[:8]}
	p.settings = append(p.settings, "EFS_FILESYSTEM=nfs://"+l.Server.Addr("a").String()+"/export")
	if !slices.ContainsFunc(settings, func(s string) bool { return strings.HasPrefix(s, "EFS_ROOT=") }) {
		p.settings = append(p.settings, "EFS_ROOT="+bareRoot(t, l))
	}
	p.settings = append(p.settings, settings...)
	p.outside = &outside{host: l.Host("host-a")}
	if host == "host-a" {
		p.outside.host = l.Host("host-b")
	}
	p.docker, p.control = p.client(p.socket()), p.client(p.data()+"/control.sock")
	t.Cleanup(p.cleanUp)
	return p
}

// bareUploads has the hosts that have the program.
var bareUploads sync.Map

func bareUpload(t *testing.T, h *lab.Host) {
	t.Helper()
	once, _ := bareUploads.LoadOrStore(h.Name(), &sync.Once{})
	once.(*sync.Once).Do(func() {
		if err := bundle.Upload(t.Context(), h, bareBundle); err != nil {
			t.Fatal(err)
		}
	})
}

func (p *barePlugin) data() string   { return p.dir + "/data" }
func (p *barePlugin) socket() string { return p.dir + "/efs.sock" }

// setting is the value of one of the plugin's settings.
func (p *barePlugin) setting(key string) string {
	value := ""
	for _, s := range p.settings {
		if k, v, _ := strings.Cut(s, "="); k == key {
			value = v
		}
	}
	return value
}

// onServer is where the first server keeps what lies at a path under the plugin's
// root.
func (p *barePlugin) onServer(path string) string {
	export := strings.SplitN(p.setting("EFS_FILESYSTEM"), "/", 4)[3]
	return filepath.Join(p.lab.Server.Dir("/"+export), p.setting("EFS_ROOT"), path)
}

// during is the same plugin for the length of a subtest, whose failures its are.
func (p *barePlugin) during(t *testing.T) *barePlugin {
	same := *p
	same.t = t
	return &same
}

// start starts the program, as dockerd does, and returns when it answers. The data
// directory is a mount of its own that is shared with the host, as in a managed plugin.
func (p *barePlugin) start() {
	p.t.Helper()
	p.sh(p.mountLine() + p.startLine())
	p.awaitAnswer()
}

func (p *barePlugin) mountLine() string {
	return fmt.Sprintf("mkdir -p %[1]s && { mountpoint -q %[1]s || { mount --bind %[1]s %[1]s && mount --make-shared %[1]s; }; } || exit\n", p.data())
}

// startLine is shell without programs beside the plugin: on these machines each
// costs tens of milliseconds.
func (p *barePlugin) startLine() string {
	var quoted strings.Builder
	for _, s := range p.settings {
		quoted.WriteString(" '" + s + "'")
	}
	return fmt.Sprintf("cd /; (exec >>%[1]s/log 2>&1 </dev/null; export%[2]s; exec setsid %[3]s serve --socket %[1]s/efs.sock --data %[1]s/data) & echo $! >%[1]s/pid\n",
		p.dir, quoted.String(), bundle.Program)
}

// awaitAnswer returns when the plugin answers: a socket that a killed one left is
// refused until then.
func (p *barePlugin) awaitAnswer() {
	p.t.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = p.call(p.t.Context(), "Capabilities", struct{}{}, &struct{}{}); err == nil {
			return
		}
	}
	p.t.Fatalf("the plugin on %s does not answer: %v", p.host.Name(), err)
}

// kill ends the program at once (KILL), or as dockerd does (TERM), and waits for its end.
func (p *barePlugin) kill(signal string) {
	p.t.Helper()
	p.sh(p.killLine(signal))
	p.hangUp()
}

func (p *barePlugin) killLine(signal string) string {
	return "read -r pid <" + p.dir + "/pid; kill -" + signal + " $pid; while kill -0 $pid 2>/dev/null; do sleep 0.02; done\n"
}

// restart ends the program and starts it again; in between it runs lines of shell.
func (p *barePlugin) restart(signal string, between ...string) {
	p.t.Helper()
	p.sh(p.killLine(signal) + strings.Join(append(between, p.startLine()), "\n"))
	p.hangUp()
	p.awaitAnswer()
}

// set changes settings, KEY=VALUE, as docker plugin set does between disable and
// enable.
func (p *barePlugin) set(settings ...string) {
	p.t.Helper()
	p.settings = append(p.settings, settings...)
	p.restart("TERM")
}

func (p *barePlugin) hangUp() {
	p.docker.CloseIdleConnections()
	p.control.CloseIdleConnections()
}

// cleanUp ends the program and removes what it may have left, so that a test that
// failed does not disturb the next one.
func (p *barePlugin) cleanUp() {
	p.hangUp()
	ctx, cancel := bareContext()
	defer cancel()
	out, err := p.host.Run(ctx, fmt.Sprintf(`[ ! -e %[1]s/log ] || tail -n 60 %[1]s/log
		[ ! -e %[1]s/pid ] || kill -KILL $(cat %[1]s/pid) 2>/dev/null
		grep -o ' %[1]s/data[^ ]*' /proc/self/mountinfo | tac | while read -r m; do umount -l "$m"; done
		rm -rf --one-file-system %[1]s`, p.dir))
	if err != nil {
		p.t.Errorf("clean up: %v", err)
	}
	if p.outside.dir != "" {
		if _, err := p.outside.host.Run(ctx, "umount -l "+p.outside.dir+"; rmdir "+p.outside.dir); err != nil {
			p.t.Errorf("clean up: %v", err)
		}
	}
	if p.t.Failed() {
		p.t.Logf("the plugin on %s said at last:\n%s", p.host.Name(), out)
	}
}

// sh runs a line of shell on the plugin's host.
func (p *barePlugin) sh(line string) string {
	p.t.Helper()
	return run(p.t, p.host, line)
}

// log is what the program has said.
func (p *barePlugin) log() string {
	p.t.Helper()
	return p.sh("cat " + p.dir + "/log")
}

func (p *barePlugin) client(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 200,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.host.Dial(ctx, "unix", socket)
		},
	}}
}

// bareError is an error that the plugin answered. Any other error of a call means
// that no answer came.
type bareError struct{ call, text string }

func (e bareError) Error() string { return e.call + ": " + e.text }

// call makes one of Docker's calls.
func (p *barePlugin) call(ctx context.Context, name string, request, response any) error {
	ctx, cancel := context.WithTimeout(ctx, bareCallLimit)
	defer cancel()
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/VolumeDriver."+name, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := p.docker.Do(r)
	if err != nil {
		return fmt.Errorf("%s got no answer: %w", name, err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("%s got half an answer: %w", name, err)
	}
	if answer.StatusCode != http.StatusOK {
		var failed struct{ Err string }
		if err := json.Unmarshal(content, &failed); err != nil || failed.Err == "" {
			return fmt.Errorf("%s: the answer %d is no error as Docker understands it: %q", name, answer.StatusCode, content)
		}
		return bareError{name, failed.Err}
	}
	return json.Unmarshal(content, response)
}

type bareRequest struct {
	Name string
	ID   string            `json:",omitempty"`
	Opts map[string]string `json:",omitempty"`
}

// create takes options as KEY=VALUE.
func (p *barePlugin) create(name string, options ...string) error {
	opts := map[string]string{}
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		opts[key] = value
	}
	return p.call(p.t.Context(), "Create", bareRequest{Name: name, Opts: opts}, &struct{}{})
}

func (p *barePlugin) mount(name, id string) (mountpoint string, err error) {
	var answer struct{ Mountpoint string }
	err = p.call(p.t.Context(), "Mount", bareRequest{Name: name, ID: id}, &answer)
	return answer.Mountpoint, err
}

func (p *barePlugin) unmount(name, id string) error {
	return p.call(p.t.Context(), "Unmount", bareRequest{Name: name, ID: id}, &struct{}{})
}

func (p *barePlugin) remove(name string) error {
	return p.call(p.t.Context(), "Remove", bareRequest{Name: name}, &struct{}{})
}

// bareVolume is what Get tells.
type bareVolume struct {
	Name, Mountpoint, CreatedAt string
	Status                      struct {
		FileSystem string            `json:"filesystem"`
		Path       string            `json:"path"`
		Options    map[string]string `json:"options"`
		Mounted    bool              `json:"mounted"`
		Mounts     map[string]int    `json:"mounts"`
		Trouble    []string          `json:"trouble"`
	}
}

func (p *barePlugin) get(name string) (bareVolume, error) {
	var answer struct{ Volume bareVolume }
	err := p.call(p.t.Context(), "Get", bareRequest{Name: name}, &answer)
	return answer.Volume, err
}

func (p *barePlugin) list() ([]string, error) {
	var answer struct{ Volumes []struct{ Name string } }
	err := p.call(p.t.Context(), "List", struct{}{}, &answer)
	names := make([]string, len(answer.Volumes))
	for i, v := range answer.Volumes {
		names[i] = v.Name
	}
	return names, err
}

// bareStatus is what docker-volume-efs status shows.
type bareStatus struct {
	FileSystems []struct{ FileSystem, Trouble string }
	Mounted     []struct {
		Volume  string
		Mounts  map[string]int
		Trouble []string
	}
}

func (p *barePlugin) status() bareStatus {
	p.t.Helper()
	var s bareStatus
	// The control socket comes a moment after Docker's.
	if err := bareWait(p.t, 5*time.Second, func() error { return p.askStatus(&s) }); err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *barePlugin) askStatus(s *bareStatus) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://plugin/status.json", nil)
	if err != nil {
		return err
	}
	answer, err := p.control.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	*s = bareStatus{}
	return json.NewDecoder(answer.Body).Decode(s)
}

// mustCreate, mustMount … are calls that have to work.
func (p *barePlugin) mustCreate(name string, options ...string) {
	p.t.Helper()
	if err := p.create(name, options...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *barePlugin) mustMount(name, id string) (mountpoint string) {
	p.t.Helper()
	mountpoint, err := p.mount(name, id)
	if err != nil {
		p.t.Fatal(err)
	}
	return mountpoint
}

func (p *barePlugin) mustUnmount(name, id string) {
	p.t.Helper()
	if err := p.unmount(name, id); err != nil {
		p.t.Fatal(err)
	}
}

func (p *barePlugin) mustRemove(name string) {
	p.t.Helper()
	if err := p.remove(name); err != nil {
		p.t.Fatal(err)
	}
}

func (p *barePlugin) mustGet(name string) bareVolume {
	p.t.Helper()
	v, err := p.get(name)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

// works checks that the whole life of a volume works, as the next correct call
// after a failure.
func (p *barePlugin) works(name string, options ...string) {
	p.t.Helper()
	p.mustCreate(name, options...)
	p.holds(name, "")
	p.mustRemove(name)
}

// holds checks that a volume mounts, that a file can be written in it, and that
// what an earlier holds wrote is there; text is that, or empty for a fresh volume.
func (p *barePlugin) holds(name, text string) {
	p.t.Helper()
	id := "holds-" + rand.Text()[:4]
	mountpoint := p.mustMount(name, id)
	file := mountpoint + "/held"
	got := p.sh("f=" + file + "; [ ! -e $f ] || echo \"$(<$f)\"; echo more >>$f")
	if got != text {
		p.t.Errorf("volume %s holds %q, want %q", name, got, text)
	}
	p.mustUnmount(name, id)
}

// fails checks that a call failed with one line that has all these words.
func (p *barePlugin) fails(err error, words ...string) {
	p.t.Helper()
	var answer bareError
	switch {
	case err == nil:
		p.t.Errorf("it works, want an error with %q", words)
		return
	case !errors.As(err, &answer):
		p.t.Errorf("no answer came: %v", err)
		return
	case strings.ContainsAny(answer.text, "\n\r"):
		p.t.Errorf("the error is not one line: %q", answer.text)
	}
	for _, word := range words {
		if !strings.Contains(answer.text, word) {
			p.t.Errorf("the error does not say %q: %s", word, answer.text)
		}
	}
}

// unused checks that nothing counts as in use: neither of these volumes, nor of any
// if none are named.
func (p *barePlugin) unused(names ...string) {
	p.t.Helper()
	for _, m := range p.status().Mounted {
		if len(m.Mounts) > 0 && (len(names) == 0 || slices.Contains(names, m.Volume)) {
			p.t.Errorf("volume %s counts %v", m.Volume, m.Mounts)
		}
	}
}

// leavesNothing checks that no count is left and, after the warm time, no mount and
// no mountpoint.
func (p *barePlugin) leavesNothing() {
	p.t.Helper()
	p.unused()
	err := bareWait(p.t, bareWarm+10*time.Second, func() error {
		if s := p.status(); len(s.Mounted) > 0 {
			return fmt.Errorf("on %s there is left: %v", p.host.Name(), s.Mounted)
		}
		return nil
	})
	if err != nil {
		p.t.Error(err)
	}
	if left := p.sh("ls " + p.data() + "/volumes; grep -o ' " + p.data() + "/volumes/[^ ]*' /proc/self/mountinfo || true"); left != "" {
		p.t.Errorf("on %s there is left: %s", p.host.Name(), left)
	}
}

// bareWait repeats a check until it passes or the time is over, and returns its last
// error.
func bareWait(t *testing.T, limit time.Duration, check func() error) error {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		err := check()
		if err == nil || time.Now().After(deadline) || t.Context().Err() != nil {
			return err
		}
	}
}

// bareRecord is a volume's record on the file system.
type bareRecord struct {
	Name, State, Path, FileSystem, Trash string
	Made                                 bool
}

// bareRecords reads all records of the catalogue under root, as the server has
// them, and reports those that are damaged.
func bareRecords(t *testing.T, root string) map[string]bareRecord {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, bareCatalogue, "volumes", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	records := map[string]bareRecord{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		var r bareRecord
		if err == nil {
			err = json.Unmarshal(content, &r)
		}
		if name := strings.TrimSuffix(filepath.Base(file), ".json"); err != nil || r.Name != name {
			t.Errorf("record %s is of %q: %v", name, r.Name, err)
		}
		records[r.Name] = r
	}
	return records
}

// bareConsistent checks a file system on which nobody is at work: each record is
// ready and has its directory, and each directory has its record.
func bareConsistent(t *testing.T, root string) {
	t.Helper()
	owned := map[string]bool{bareCatalogue: true}
	for _, r := range bareRecords(t, root) {
		if r.FileSystem != "" {
			continue // it points elsewhere
		}
		if r.State != "ready" {
			t.Errorf("volume %s is stuck: its record says %q", r.Name, r.State)
		}
		if info, err := os.Stat(filepath.Join(root, r.Path)); err != nil || !info.IsDir() {
			t.Errorf("volume %s is half there: it has a record and no directory %s", r.Name, r.Path)
		}
		owned[strings.Split(r.Path, "/")[1]] = true
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !owned[e.Name()] {
			t.Errorf("volume %s is half there: it has a directory and no record", e.Name())
		}
	}
}

// bareTidy is bareConsistent where nothing has crashed: then nothing is on its way
// either.
func bareTidy(t *testing.T, root string) {
	t.Helper()
	bareConsistent(t, root)
	if left := bareTmp(t, root); len(left) > 0 {
		t.Errorf("left in tmp/: %v", left)
	}
}

// bareTmp lists what is on its way into a catalogue.
func bareTmp(t *testing.T, root string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, bareCatalogue, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// outside is a plain mount of the first server's /export on the other host.
type outside struct {
	host *lab.Host
	dir  string // empty: not mounted yet
}

// rewrite changes a file under the plugin's root as another host would: through the
// NFS server, so that the server knows of it. line is shell; $f is the file.
func (p *barePlugin) rewrite(path, line string) {
	p.t.Helper()
	o := p.outside
	mount := ""
	if o.dir == "" {
		o.dir = p.dir + "-outside"
		mount = fmt.Sprintf("mkdir -p %s && mount -t nfs4 -o vers=4.1,noac,lookupcache=none 10.77.0.11:/export %[1]s || exit\n", o.dir)
	}
	_, within, _ := strings.Cut(p.setting("EFS_FILESYSTEM"), "/export")
	run(p.t, o.host, fmt.Sprintf("%sf=%s; %s", mount, filepath.Join(o.dir, within, p.setting("EFS_ROOT"), path), line))
}

// bareContext is for cleaning up: the test's own context has ended then.
func bareContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}
