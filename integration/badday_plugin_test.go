//go:build integration

package integration

import (
	"context"
	"crypto/rand"
	"fmt"
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
		defer lockBundle(h).Unlock()
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
	out, err := p.host.Run(ctx, fmt.Sprintf(`[ ! -e %[1]s/log ] || tail -n 25 %[1]s/log
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
