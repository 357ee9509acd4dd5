//go:build integration

package integration

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

func TestMain(m *testing.M) {
	os.Exit(lab.Main(closing{m}, func(ctx context.Context) error {
		if err := lab.Prepare(ctx, suite(), os.Stderr); err != nil {
			return err
		}
		_, err := lab.PreparePeers(ctx, lab.Suites()[0], os.Stderr)
		return err
	}))
}

// suite is the Debian release of the hosts in this run.
func suite() string { return cmp.Or(os.Getenv("LAB_SUITE"), lab.Suites()[0]) }

// closing runs the tests and then ends the lab that they shared.
type closing struct{ m *testing.M }

func (c closing) Run() int {
	code := c.m.Run()
	if shared.lab != nil {
		shared.lab.Close()
	}
	return code
}

// shared is the lab of this run: hosts take seconds to start, so tests share them
// and put back what they change.
var shared struct {
	once sync.Once
	lab  *lab.Lab
	err  error
}

// hosts returns the lab with host-a, host-b and, for tests that need their own, host-c to host-e, started by the first test that
// asks. A test that fails afterwards leaves the hosts' and the server's logs in a directory, see logsOf.
// It has said before which of them it uses; see claims_test.go.
func hosts(t *testing.T) *lab.Lab {
	t.Helper()
	if !mayUseHosts(t) {
		t.Fatal("the test has not said what it uses: alone, beside or apart")
	}
	shared.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
		defer cancel()
		shared.lab, shared.err = lab.Start(ctx, lab.Options{Suite: suite(), Hosts: []string{"host-a", "host-b", "host-c", "host-d", "host-e"}, Log: os.Stderr})
	})
	if shared.err != nil {
		t.Fatalf("start the test hosts: %v", shared.err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			dump(t, shared.lab)
		}
	})
	return shared.lab
}

func dump(t *testing.T, l *lab.Lab) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	t.Logf("the hosts' and the server's logs are in integration/%s", logsOf(t))
	record(t, "nfs", l.Server.Log())
	for _, h := range l.Hosts() {
		record(t, h.Name()+"-console", h.Console())
		for name, line := range map[string]string{
			"engine":    "cat /run/dockerd.log",
			"kernel":    "dmesg | tail -n 100; grep nfs /proc/mounts || true",
			"processes": "ps -eo pid,ppid,stat,etimes,wchan:20,args --sort=-etimes | grep -v '\\[.*\\]$'",
		} {
			text, err := h.Run(ctx, line)
			if err != nil {
				text += "\n" + err.Error()
			}
			record(t, h.Name()+"-"+name, text)
		}
	}
}

// logsOf is where a failed test's logs are: of the checkout, tests may write in their own directory only.
func logsOf(t *testing.T) string {
	return filepath.Join("failed", suite()+"-"+strings.ReplaceAll(t.Name(), "/", "-"))
}

// record keeps a log for who looks into a test's failure: in the output it would hide what failed.
func record(t *testing.T, name, text string) {
	err := os.MkdirAll(logsOf(t), 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(logsOf(t), name+".log"), []byte(text), 0o644)
	}
	if err != nil {
		t.Logf("%s: %v; it ends:\n%s", name, err, text[max(0, len(text)-2500):])
	}
}

// moment is how long a host may take for what takes it no time: the machine that emulates it may be busy.
const moment = 20 * time.Second

// run runs a line of shell on a host and fails the test if the command fails.
func run(t *testing.T, h *lab.Host, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := h.Run(ctx, line)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
