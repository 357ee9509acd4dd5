package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// program finds a program of a Debian package. Where scripts/setup.sh would have
// installed it, that it is missing is a failure and not a reason to skip.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if _, err := exec.LookPath("dpkg-query"); err == nil {
		t.Fatalf("%s is missing: scripts/setup.sh installs it", name)
	}
	t.Skipf("NOT TESTED: %s is missing, and this is not Debian", name)
	return ""
}

// blocks are the code blocks of a page that contain a text.
func blocks(t *testing.T, page, contain string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, found := range regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		if strings.Contains(found[1], contain) {
			all = append(all, found[1])
		}
	}
	return all
}

const recipePage = "docs/relay-from-haproxy.md"

// recipe runs the page's openssl commands in a directory.
func recipe(t *testing.T, dir string) {
	t.Helper()
	program(t, "openssl")
	script := blocks(t, recipePage, "openssl req")
	if len(script) != 1 {
		t.Fatalf("%d blocks with openssl in %s", len(script), recipePage)
	}
	command := exec.CommandContext(t.Context(), "/bin/sh", "-eu", "-c", script[0])
	command.Dir = dir
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// options of a block's command line, with what is real put in place of the page's.
func options(block string, replace ...string) []string {
	text := strings.NewReplacer("\\\n", " ", "RELAY_OPTIONS=", "").Replace(block)
	return strings.Fields(strings.NewReplacer(replace...).Replace(strings.TrimPrefix(text, "docker-volume-efs relay")))
}

// targets puts the test's server in the place of the page's mount target at home, and addresses where
// nobody listens in that of the others.
func targets(server string) []string {
	return []string{"eu-central-1a=10.0.1.5", "eu-central-1a=" + server, "10.0.2.5", "127.0.0.2", "10.0.3.5", "127.0.0.3"}
}

func TestRelayCarriesOutTheRecipeForAPair(t *testing.T) {
	dir := t.TempDir()
	recipe(t, dir)
	for _, name := range []string{"aws", "dc"} {
		place := filepath.Join(dir, name)
		if err := os.Mkdir(place, 0o700); err != nil {
			t.Fatal(err)
		}
		for from, to := range map[string]string{"ca.pem": "ca.pem", name + ".pem": "cert.pem", name + ".key": "key.pem"} {
			if err := os.Link(filepath.Join(dir, from), filepath.Join(place, to)); err != nil {
				t.Fatal(err)
			}
		}
	}
	server := nfsServer(t)
	aws, dc := blocks(t, recipePage, "--peer-name dc"), blocks(t, recipePage, "--peer-name aws")
	if len(aws) != 1 || len(dc) != 1 {
		t.Fatalf("the page has %d and %d option lines", len(aws), len(dc))
	}
	place := func(name string) []string { return []string{"/etc/docker-volume-efs/tls", filepath.Join(dir, name)} }
	far := runRelay(t, append([]string{"--peer-listen=127.0.0.1:0"}, options(aws[0],
		slices.Concat(place("aws"), []string{"198.51.100.7", "127.0.0.1"}, targets(server))...)...)...)
	addr := far.line(`listening for peer gateways on (\S+)"`)
	args := options(dc[0], append(place("dc"), "10.0.0.0/8", "127.0.0.1", "203.0.113.10:20490", addr, "203.0.113.20", "127.0.0.4")...)
	near := runRelay(t, append([]string{"--listen=127.0.0.1:0"}, args...)...)
	mustTalk(t, connect(t, near.addr()), "through the pair")

	checked := runRelay(t, append([]string{"--check"}, args...)...)
	if checked.ended(); !regexp.MustCompile("a=" + addr + ` +answers in `).MatchString(checked.log()) {
		t.Errorf("--check:\n%s", checked.log())
	}

	// SIGHUP goes through to who serves; new files of the same authority are taken.
	client := connect(t, near.addr())
	mustTalk(t, client, "hello")
	if err := os.WriteFile(filepath.Join(dir, "dc", "cert.pem"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The look at the files tells of them as well, every 5 s, but once, or twice if it finds them half
	// written: of three lines a signal has brought one.
	const refused = "the new certificate is not used, the old one is"
	for range 3 {
		before := strings.Count(near.log(), refused)
		near.signal(syscall.SIGHUP)
		eventually(t, "a line tells that the certificate is refused", func() bool { return strings.Count(near.log(), refused) > before })
	}
	mustTalk(t, client, "undisturbed")
	mustTalk(t, connect(t, near.addr()), "and others come")
}

// The page's command for who comes from HAProxy is one that can be used.
func TestRelayTakesTheTranslatedConfiguration(t *testing.T) {
	server := nfsServer(t)
	block := blocks(t, recipePage, "docker-volume-efs relay --filesystem")
	if len(block) != 1 {
		t.Fatalf("%d blocks", len(block))
	}
	p := runRelay(t, options(block[0], append(targets(server), ":2049", "127.0.0.1:0", "10.0.0.0/8", "127.0.0.0/8")...)...)
	mustTalk(t, connect(t, p.addr()), "hello")
	if old := blocks(t, recipePage, "default-server check inter 60s fastinter 15s downinter 5s"); len(old) != 1 {
		t.Error("the page does not start from the configuration that people have")
	}
}

func TestRelayPagesNameEveryOption(t *testing.T) {
	text, err := os.ReadFile("docs/relay.md")
	if err != nil {
		t.Fatal(err)
	}
	status := 0
	for line := range strings.SplitSeq(relayCommand(&status).Flags().FlagUsages(), "\n") {
		if found := regexp.MustCompile(`--([a-z-]+)`).FindStringSubmatch(line); found != nil && found[1] != "help" && !strings.Contains(string(text), "**--"+found[1]+"**") {
			t.Errorf("docs/relay.md does not have --%s", found[1])
		}
	}
	for _, row := range []struct{ name, want string }{{"inter", "5s"}, {"drain", "2s"}, {"max-connections", "10000"}, {"max-per-client", "256"}} {
		if flag := relayCommand(&status).Flags().Lookup(row.name); flag.DefValue != row.want && !strings.Contains(flag.Usage, "default "+row.want) {
			t.Errorf("the default of --%s is not %s, as the page says: %q", row.name, row.want, flag.DefValue)
		}
	}
}

func TestRelayShowsItselfByHTTP(t *testing.T) {
	server := nfsServer(t)
	web := freeAddress(t).String()
	p := runRelay(t, "--listen=127.0.0.1:0", "--target=a="+server, "--http="+web, "--filesystem=fs-1")
	addr := p.addr()
	mustTalk(t, connect(t, addr), "hello")
	for _, row := range []struct{ path, has string }{
		{"/healthz", "ok"}, {"/status.json", `"listen": "` + addr + `"`}, {"/metrics", `filesystem="fs-1"`}, {"/metrics", "\nprocess_start_time_seconds "}, {"/", server},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+web+row.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(text), row.has) {
			t.Errorf("%s: %s, %v, want %q:\n%s", row.path, answer.Status, err, row.has, text)
		}
	}
}

// systemd's part is played by the test: it holds the socket while gateways come and go.
func TestRelayWithSystemdsSocketRefusesNobodyInAnUpgrade(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	dir := t.TempDir()
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	hear := func(want string) {
		t.Helper()
		_ = told.SetReadDeadline(time.Now().Add(patience))
		buffer := make([]byte, 1000)
		if n, err := told.Read(buffer); err != nil || !strings.HasPrefix(string(buffer[:n]), want) {
			t.Fatalf("systemd is told %q, %v; want %s", buffer[:n], err, want)
		}
	}
	server, addr := nfsServer(t), listener.Addr().String()
	start := func() *process {
		t.Helper()
		// --listen of the same address is not listened on twice.
		p := launch(t, `LISTEN_PID=$$ exec "$@"`, []*os.File{socket},
			[]string{"LISTEN_FDS=1", "LISTEN_FDNAMES=listen", "NOTIFY_SOCKET=" + told.LocalAddr().String()},
			"relay", "--listen="+addr, "--target=a="+server, "--drain=100ms", "--data="+dir)
		hear("READY=1")
		return p
	}
	old := start()
	client := connect(t, addr)
	mustTalk(t, client, "hello")
	old.signal(syscall.SIGTERM)
	hear("STOPPING=1")
	if exit := old.ended(); exit != 0 {
		t.Fatalf("exit status %d", exit)
	}
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("the client is not told")
	}
	var waiting []net.Conn
	for range 20 {
		waiting = append(waiting, connect(t, addr)) // nobody serves, and none is refused
	}
	begun := time.Now()
	next := start()
	for i, conn := range waiting {
		mustTalk(t, conn, fmt.Sprintf("client %d waited", i))
	}
	t.Logf("the next gateway served those that waited after %v", time.Since(begun))

	look := launch(t, `exec "$@"`, nil, nil, "status", "--data="+dir)
	if exit := look.ended(); exit != 0 || !regexp.MustCompile(`relay +`+addr+` +a +20 of `).MatchString(look.log()) || !regexp.MustCompile(`a +`+server+` +up, in use`).MatchString(look.log()) {
		t.Errorf("status: %d\n%s", exit, look.log())
	}
	wrong := launch(t, `exec "$@"`, nil, nil, "drain", "z", "--data="+dir)
	if exit := wrong.ended(); exit != exitTrouble || !strings.Contains(wrong.log(), "there are: a") {
		t.Errorf("drain of a zone that is none: %d\n%s", exit, wrong.log())
	}
	next.signal(syscall.SIGTERM)
	if exit := next.ended(); exit != 0 {
		t.Errorf("exit status %d", exit)
	}
}

func TestRelayRefusesSocketsOfSystemdThatItDoesNotKnow(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for _, row := range []struct{ name, says string }{
		{"web", "Write FileDescriptorName=listen, peer or http"},
		{"peer", "a certificate only: none is given"},
	} {
		p := launch(t, `LISTEN_PID=$$ exec "$@"`, []*os.File{socket}, []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=" + row.name},
			"relay", "--target=a=127.0.0.1:1")
		if exit := p.ended(); exit == 0 || !strings.Contains(p.log(), row.says) || strings.Count(p.log(), "\n") != 1 {
			t.Errorf("%s: exit status %d, want %q:\n%s", row.name, exit, row.says, p.log())
		}
	}
}

func TestSystemdTakesTheUnits(t *testing.T) {
	analyze := program(t, "systemd-analyze")
	dir := t.TempDir()
	sources, err := filepath.Glob("deploy/systemd/*.s*")
	if err != nil || len(sources) != 3 {
		t.Fatalf("units %v, %v", sources, err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var units []string
	for _, source := range sources {
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		// It looks whether the program is there.
		text = []byte(strings.ReplaceAll(string(text), "/usr/local/bin/docker-volume-efs", self))
		unit := filepath.Join(dir, filepath.Base(source))
		if err := os.WriteFile(unit, text, 0o600); err != nil {
			t.Fatal(err)
		}
		units = append(units, unit)
	}
	verify := exec.CommandContext(t.Context(), analyze, append([]string{"verify", "--man=no"}, units...)...)
	verify.Env = append(os.Environ(), "HOME="+dir, "XDG_RUNTIME_DIR="+dir)
	// It speaks of the machine's own units as well, which ours want or are wanted by.
	out, err := verify.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "docker-volume-efs") {
			t.Errorf("systemd-analyze verify: %v: %s", err, line)
		}
	}
	// Of 100: what a service could do beyond its purpose.
	const exposure = "15"
	security := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--no-pager", "--threshold="+exposure, units[slices.IndexFunc(units, isService)])
	if out, err := security.CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// What passes by itself has another exit status than the one that the unit does not try again.
func TestTheUnitNeverStopsTrying(t *testing.T) {
	text, err := os.ReadFile("deploy/systemd/docker-volume-efs-relay.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"StartLimitIntervalSec=0", "Restart=on-failure", fmt.Sprintf("RestartPreventExitStatus=%d", exitUsage)} {
		if !strings.Contains(string(text), "\n"+want+"\n") {
			t.Errorf("the unit does not say %s", want)
		}
	}
}

// Crashes are seen by process_start_time_seconds, which is made of /proc/stat.
func TestTheUnitHidesNothingThatMetricsAreMadeOf(t *testing.T) {
	text, err := os.ReadFile("deploy/systemd/docker-volume-efs-relay.service")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "\nProcSubset=") {
		t.Error("the unit has ProcSubset=, which hides /proc/stat")
	}
}

func isService(name string) bool { return strings.HasSuffix(name, ".service") }

// The example is one that the command takes.
func TestSystemdsExampleOptionsAreRight(t *testing.T) {
	text, err := os.ReadFile("deploy/systemd/relay.conf")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "RELAY_OPTIONS=")
	var flags relayFlags
	set := pflag.NewFlagSet("relay", pflag.ContinueOnError)
	flags.register(set)
	if err := set.Parse(options(after)); err != nil {
		t.Fatal(err)
	}
	if plan, err := flags.plan(); err != nil || len(plan.options.Targets) != 3 || plan.options.Home != plan.options.Targets[0].Zone {
		t.Errorf("%+v, %v", plan.options, err)
	}
}
