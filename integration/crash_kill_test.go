//go:build integration

package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/bundle"
)

// strikeProgram is the plugin's supervisor while it is killed. For each line on its
// socket, "MICROSECONDS CALL BODY", it makes the call and so long after the request was sent
// (never, if negative) kills, in turns, the whole plugin, which it then starts again as Docker
// does, when no process of it is left; or the worker alone, for which its parent starts
// another. It prints the answer's status, or none, and how long that took. All of it is on the host, so that the
// moment is exact. It uses nothing but what Debian's essential perl has; 228 is
// clock_gettime(2).
const strikeProgram = `use strict; use warnings; use IO::Socket::UNIX;
my ($dir, $program, @settings) = @ARGV;
my ($pid, $strikes) = (0, 0);
sub now { my $t = pack("qq", 0, 0); syscall(228, 1, $t); my ($s, $n) = unpack("qq", $t); return $s * 1e6 + $n / 1e3 }
sub dial { return IO::Socket::UNIX->new(Peer => "$dir/efs.sock") }
sub start {
	$pid = fork();
	if (!$pid) {
		%ENV = map { split(/=/, $_, 2) } @settings;
		open(STDIN, "<", "/dev/null"); open(STDOUT, ">>", "$dir/log"); open(STDERR, ">&", "STDOUT");
		exec($program, "serve", "--socket", "$dir/efs.sock", "--data", "$dir/data");
	}
	open(my $f, ">", "$dir/pid"); print $f "$pid\n"; close($f);
	until (dial()) { select(undef, undef, undef, 0.01) }
}
# Any thread may have forked it.
sub worker {
	for my $file (glob("/proc/$pid/task/*/children")) {
		open(my $f, "<", $file) or next;
		my ($child) = split(" ", <$f> // "");
		return $child if $child;
	}
	return 0;
}
sub strike {
	my $worker = worker() or die "the plugin has no worker";
	my $alone = $strikes++ % 2;
	kill(9, $alone ? $worker : $pid);
	waitpid($pid, 0) unless $alone;
	while (kill(0, $worker)) { select(undef, undef, undef, 0.002) }
	start() unless $alone;
	until (worker()) { select(undef, undef, undef, 0.002) }
}
start();
my $listener = IO::Socket::UNIX->new(Local => "$dir/strike.sock", Listen => 1) or die "listen: $!";
while (my $from = $listener->accept) {
	while (my $line = <$from>) {
		my ($delay, $call, $body) = $line =~ /^(\S+) (\S+) (.*)/;
		my $s = dial() or die "connect: $!";
		my $request = "POST /VolumeDriver.$call HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
		my $start = now();
		syswrite($s, $request);
		if ($delay >= 0) { select(undef, undef, undef, $delay / 1e6); strike(); }
		my $answer = "";
		while (sysread($s, my $part, 65536)) { $answer .= $part }
		my $took = int(now() - $start);
		print $from $answer =~ /^HTTP\S+ (\d+)/ ? $1 : "none", " $took\n";
	}
}
`

// crashes kills one plugin again and again.
type crashes struct {
	*barePlugin
	random     *rand.Rand
	supervisor *bufio.ReadWriter
	strikes    int
	typical    time.Duration // how long the call takes
	answer     time.Duration // when the answer leaves, as far as known
}

// superviseCrashes hands the plugin over to the supervisor.
func superviseCrashes(p *barePlugin, random *rand.Rand) *crashes {
	p.t.Helper()
	if err := p.host.UploadBytes(p.t.Context(), []byte(strikeProgram), p.dir+"/strike", 0o644); err != nil {
		p.t.Fatal(err)
	}
	p.kill("TERM")
	p.sh(fmt.Sprintf("perl %[1]s/strike %[1]s %s %s >>%[1]s/log 2>&1 </dev/null & echo $! >%[1]s/strike.pid; until [ -S %[1]s/strike.sock ]; do sleep 0.05; done",
		p.dir, bundle.Program, strings.Join(p.settings, " ")))
	p.t.Cleanup(func() { // before the plugin's own
		ctx, cancel := bareContext()
		defer cancel()
		if _, err := p.host.Run(ctx, "kill $(cat "+p.dir+"/strike.pid)"); err != nil {
			p.t.Error(err)
		}
	})
	conn, err := p.host.Dial(p.t.Context(), "unix", p.dir+"/strike.sock")
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	return &crashes{barePlugin: p, random: random, supervisor: bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))}
}

// command has the supervisor make a call.
func (c *crashes) command(delay time.Duration, call string, request bareRequest) (answered bool, took time.Duration) {
	c.t.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		c.t.Fatal(err)
	}
	fmt.Fprintf(c.supervisor, "%d %s %s\n", delay.Microseconds(), call, body)
	if err := c.supervisor.Flush(); err != nil {
		c.t.Fatal(err)
	}
	line, err := c.supervisor.ReadString('\n')
	if err != nil {
		c.t.Fatalf("%s of %s: the supervisor says nothing: %v", call, request.Name, err)
	}
	status, text, _ := strings.Cut(strings.TrimSpace(line), " ")
	n, err := strconv.Atoi(text)
	if err != nil || status != "200" && status != "none" {
		c.t.Errorf("%s of %s: the supervisor says %q", call, request.Name, line)
	}
	return status == "200", time.Duration(n) * time.Microsecond
}

// measure returns how long a call takes on the host.
func (c *crashes) measure(call string, request bareRequest) time.Duration {
	c.t.Helper()
	answered, took := c.command(-time.Microsecond, call, request)
	if !answered {
		c.t.Fatalf("%s of %s got no answer", call, request.Name)
	}
	return took
}

// strike kills the plugin at a random moment of a call and starts it again. It tells
// whether the call was answered before. Every other moment is anywhere between the
// beginning and half as long again as the call takes; the others are close to the
// answer, where that moment was found to be so far.
func (c *crashes) strike(call string, request bareRequest) (answered bool) {
	c.t.Helper()
	c.strikes++
	moment := time.Duration(c.random.Int64N(int64(c.typical * 3 / 2)))
	if c.strikes%2 == 0 {
		moment = c.answer + time.Duration(c.random.Int64N(int64(c.answer/5))) - c.answer/10
	}
	answered, _ = c.command(moment, call, request)
	c.hangUp()
	switch {
	case answered && moment <= c.answer:
		c.answer -= c.answer / 16
	case !answered && moment >= c.answer:
		c.answer += c.answer / 16
	}
	return answered
}

// counts are the mounts that a volume has on this host.
func (p *barePlugin) counts(name string) map[string]int {
	p.t.Helper()
	for _, m := range p.status().Mounted {
		if m.Volume == name {
			return m.Mounts
		}
	}
	return nil
}

// mustCount checks one mount ID's count.
func (c *crashes) mustCount(name, id string, atMost int) {
	c.t.Helper()
	if n := c.counts(name)[id]; n > atMost {
		c.t.Errorf("volume %s counts %d for %s", name, n, id)
	}
}

// mustKeep mounts the volume as another container and checks that its file is there.
func (c *crashes) mustKeep(name string) {
	c.t.Helper()
	mountpoint := c.mustMount(name, "check")
	if got := c.sh("echo \"$(<" + mountpoint + "/kept)\""); got != name {
		c.t.Errorf("volume %s holds %q", name, got)
	}
	c.mustUnmount(name, "check")
}

// kills is how often the plugin is killed in each kind of call.
const kills = 25

func TestCrashAtAnyMoment(t *testing.T) {
	beside(t)
	a, b := bareTwo(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := superviseCrashes(a, rand.New(rand.NewPCG(seed, 0)))
	b.fill("steady", "mount", "remove", "measured")
	// A container that writes all the time, under all the crashes.
	steady := a.mustMount("steady0", "steady")
	a.sh(fmt.Sprintf(`{ i=0; while [ ! -e %[1]s/stop ]; do i=$((i+1)); echo $i >>%[2]s/log || exit; echo $i >%[1]s/written; sleep 0.5; done; } </dev/null >/dev/null 2>&1 &`, a.dir, steady))

	for _, kind := range []struct {
		call string
		kill func(c *crashes, i int) (answered bool)
		try  func(i int) (call string, request bareRequest) // what is measured
	}{
		{"Create", (*crashes).killCreate, func(i int) (string, bareRequest) {
			return "Create", bareRequest{Name: fmt.Sprintf("measure%d", i), Opts: map[string]string{"uid": "7"}}
		}},
		{"Mount", (*crashes).killMount, func(i int) (string, bareRequest) {
			return "Mount", bareRequest{Name: fmt.Sprintf("measured%d", i), ID: "1"}
		}},
		{"Unmount", (*crashes).killUnmount, func(i int) (string, bareRequest) {
			return "Unmount", bareRequest{Name: fmt.Sprintf("measured%d", i), ID: "1"}
		}},
		{"Remove", (*crashes).killRemove, func(i int) (string, bareRequest) {
			return "Remove", bareRequest{Name: fmt.Sprintf("measured%d", i)}
		}},
	} {
		t.Run(kind.call, func(t *testing.T) {
			c := &crashes{barePlugin: a.during(t), random: c.random, supervisor: c.supervisor}
			var took []time.Duration
			for i := range 5 {
				call, request := kind.try(i)
				took = append(took, c.measure(call, request))
			}
			typical := slices.Sorted(slices.Values(took))[2]
			c.typical, c.answer = typical, typical
			answered := 0
			for i := range kills {
				if kind.kill(c, i) {
					answered++
				}
			}
			t.Logf("a %s takes %v; of %d that were killed, %d had their answer", kind.call, typical, kills, answered)
		})
	}

	if got := a.counts("steady0"); len(got) != 1 || got["steady"] != 1 {
		t.Errorf("the volume in use all the time counts %v", got)
	}
	a.sh("touch " + a.dir + "/stop; sleep 1")
	if got := a.sh(fmt.Sprintf("wc -l <%[2]s/log; tail -n 1 %[2]s/log; cmp <(seq $(cat %[1]s/written)) %[2]s/log && cat %[2]s/kept", a.dir, steady)); !strings.HasSuffix(got, "\nsteady0") {
		t.Errorf("the container that wrote all the time lost something: %s", got)
	}
	a.mustUnmount("steady0", "steady")
	bareConsistent(t, a.onServer(""))
	if left := bareTmp(t, a.onServer("")); len(left) > 0 {
		t.Logf("%d crashes left %d files in tmp/, which are swept after a day", 4*kills, len(left))
	}
	if strings.Contains(a.log(), "panic") {
		t.Errorf("a panic:\n%s", a.log())
	}
	a.leavesNothing()
	b.leavesNothing()
}

// fill creates volumes for kills calls of each kind, with a file in each that holds the
// volume's name.
func (p *barePlugin) fill(kinds ...string) {
	p.t.Helper()
	var volumes []string
	for _, kind := range kinds {
		for i := range map[string]int{"steady": 1, "measured": 5}[kind] {
			volumes = append(volumes, fmt.Sprint(kind, i))
		}
		if kind == "mount" || kind == "remove" {
			for i := range kills {
				volumes = append(volumes, fmt.Sprint(kind, i))
			}
		}
	}
	var calls []func()
	for _, name := range volumes {
		calls = append(calls, func() {
			if err := p.create(name); err != nil {
				p.t.Error(err)
			} else if _, err := p.mount(name, "fill"); err != nil {
				p.t.Error(err)
			}
		})
	}
	together(calls...)
	p.sh("cd " + p.data() + "/volumes && for v in *; do echo $v >$v/kept; done && sync */kept")
	for _, name := range volumes {
		p.mustUnmount(name, "fill")
	}
}

func (c *crashes) killCreate(i int) (answered bool) {
	name := fmt.Sprint("create", i)
	answered = c.strike("Create", bareRequest{Name: name, Opts: map[string]string{"uid": "7"}})
	if answered {
		c.mustGet(name)
	}
	if i%2 == 1 {
		c.mustRemove(name)
		if _, err := c.get(name); err == nil {
			c.t.Errorf("volume %s is there after Remove", name)
		}
		return answered
	}
	c.mustCreate(name, "uid=7")
	c.mustMount(name, "1")
	c.mustUnmount(name, "1")
	info, err := os.Stat(c.onServer(name))
	if err != nil || info.Mode().Perm() != 0o755 || info.Sys().(*syscall.Stat_t).Uid != 7 {
		c.t.Errorf("volume %s: its directory is %v, %v", name, info, err)
	}
	return answered
}

func (c *crashes) killMount(i int) (answered bool) {
	// Every other time the volume is mounted already, for a container of before.
	name, id := fmt.Sprint("mount", i/2*2), fmt.Sprint("killed", i)
	answered = c.strike("Mount", bareRequest{Name: name, ID: id})
	if atMost := map[bool]int{true: 1}[answered]; c.counts(name)[id] > atMost {
		c.t.Errorf("volume %s counts %v, answered: %v", name, c.counts(name), answered)
	}
	if i%4 < 2 {
		c.mustKeep(name)
	}
	c.mustUnmount(name, id)
	c.mustCount(name, id, 0)
	return answered
}

func (c *crashes) killUnmount(i int) (answered bool) {
	name, id := fmt.Sprint("mount", i), fmt.Sprint("killed", i)
	c.mustMount(name, id)
	c.mustMount(name, "stays")
	answered = c.strike("Unmount", bareRequest{Name: name, ID: id})
	c.mustCount(name, id, map[bool]int{false: 1}[answered])
	if i%2 == 1 {
		c.mustKeep(name)
	}
	c.mustUnmount(name, id)
	if got := c.counts(name); len(got) != 1 || got["stays"] != 1 {
		c.t.Errorf("volume %s counts %v, want the other container's", name, got)
	}
	c.mustUnmount(name, "stays")
	return answered
}

func (c *crashes) killRemove(i int) (answered bool) {
	name := fmt.Sprint("remove", i)
	answered = c.strike("Remove", bareRequest{Name: name})
	if _, err := c.get(name); answered && err == nil {
		c.t.Errorf("volume %s is there after Remove", name)
	}
	if i%2 == 0 {
		c.mustRemove(name)
		if _, err := os.Stat(c.onServer(name)); err == nil {
			c.t.Errorf("volume %s: its directory is there after Remove", name)
		}
	} else {
		c.mustCreate(name)
		c.mustMount(name, "1")
		c.mustUnmount(name, "1")
	}
	// Its data is in one place.
	places, err := filepath.Glob(c.onServer(bareCatalogue + "/trash/*-" + name + "/data/kept"))
	if _, statErr := os.Stat(c.onServer(name + "/kept")); statErr == nil {
		places = append(places, "the volume")
	} else if !errors.Is(statErr, os.ErrNotExist) {
		c.t.Error(statErr)
	}
	if err != nil || len(places) != 1 {
		c.t.Errorf("volume %s: its data is in %v, %v", name, places, err)
	}
	return answered
}
