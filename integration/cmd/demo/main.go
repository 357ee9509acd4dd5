// Command demo shows the plugin's main job on two Docker hosts of its own: a
// Postgres that is killed on one host is started on the other and finds its rows.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/integration/bundle"
	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

// bundleDir is what make rootfs builds.
const bundleDir = "build/plugin-amd64"

func main() {
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
	os.Exit(code)
}

func run() (code int, err error) {
	code, done, err := lab.Isolate(func(ctx context.Context) error {
		return lab.Prepare(ctx, suite(), os.Stderr)
	})
	if err != nil || done {
		return max(code, status(err)), err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	l, err := lab.Start(ctx, lab.Options{Suite: suite(), Log: os.Stderr})
	if err != nil {
		return 1, err
	}
	err = tell(ctx, l)
	return status(err), errors.Join(err, l.Close())
}

// suite is the Debian release of the hosts, and with it their Engine.
func suite() string { return cmp.Or(os.Getenv("LAB_SUITE"), lab.Suites()[0]) }

func status(err error) int {
	if err != nil {
		return 1
	}
	return 0
}

// story runs commands on the hosts, shows them, and keeps how long the steps took.
type story struct {
	ctx   context.Context //nolint:containedctx // a story is one call's
	steps []step
	err   error // the first; nothing is done after it
}

type step struct {
	title string
	took  time.Duration
}

// step begins a part of the story; do is skipped after an error.
func (s *story) step(title string, do func()) {
	if s.err != nil {
		return
	}
	fmt.Printf("\n\033[1m— %s\033[0m\n", title)
	start := time.Now()
	do()
	s.steps = append(s.steps, step{title, time.Since(start)})
}

// run shows a command and its output as it comes.
func (s *story) run(h *lab.Host, line string) {
	if s.err != nil {
		return
	}
	fmt.Printf("%s# %s\n", h.Name(), line)
	s.err = h.Stream(s.ctx, line, os.Stdout, os.Stdout)
}

// wait runs a command until it works, without showing it again and again.
func (s *story) wait(h *lab.Host, what, line string) {
	const patience = 2 * time.Minute
	fmt.Printf("%s  … %s\n", h.Name(), what)
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	for s.err == nil {
		if _, err := h.Run(ctx, line); err == nil {
			return
		}
		if ctx.Err() != nil {
			s.err = fmt.Errorf("%s: waited %v for: %s", h.Name(), patience, what)
		}
		time.Sleep(300 * time.Millisecond)
	}
}

const (
	startPostgres = "docker run -d --name db --network none -v pgdata:/var/lib/postgresql/data postgres"
	ready         = "docker exec db pg_isready -q -h 127.0.0.1 -U postgres"
	rows          = 3
)

func psql(sql string) string {
	return fmt.Sprintf("docker exec db psql -q -h 127.0.0.1 -U postgres -c %q", sql)
}

// tell tells the story and checks that it came out.
func tell(ctx context.Context, l *lab.Lab) error {
	a, b := l.Host("host-a"), l.Host("host-b")
	s := &story{ctx: ctx}
	fmt.Printf("\nTwo Docker hosts, %s and %s, and an NFSv4.1 server at %s.\n", a.Name(), b.Name(), l.Server.Addr("a"))
	s.step("install the plugin on both hosts", func() {
		for _, h := range l.Hosts() {
			if s.err = bundle.Upload(ctx, h, bundleDir); s.err != nil {
				return
			}
			for _, line := range bundle.Commands(fmt.Sprintf("EFS_FILESYSTEM=nfs://%s/export", l.Server.Addr("a"))) {
				s.run(h, line)
			}
		}
	})
	s.step("create a volume on host-a and start Postgres on it", func() {
		s.run(a, "docker volume create -d efs pgdata")
		s.run(a, startPostgres)
		s.wait(a, "Postgres makes its database and starts", ready)
	})
	s.step("write some rows", func() {
		s.run(a, psql("CREATE TABLE moves (id serial, host text)"))
		s.run(a, psql(fmt.Sprintf("INSERT INTO moves (host) SELECT 'host-a' FROM generate_series(1, %d)", rows)))
	})
	s.step("kill -9 the container: nothing is shut down, nothing is flushed", func() {
		s.run(a, "kill -9 $(docker inspect -f '{{.State.Pid}}' db)")
		s.wait(a, "the Engine sees it end", "test $(docker inspect -f '{{.State.Running}}' db) = false")
		s.run(a, "docker ps -a --format '{{.Names}}: {{.Status}}'")
	})
	s.step("start Postgres on host-b: the volume is found by its name", func() {
		s.run(b, "docker volume ls -f driver=efs:latest")
		s.run(b, startPostgres)
		s.wait(b, "Postgres recovers and starts", ready)
	})
	s.step("the rows are there", func() {
		s.run(b, psql("SELECT * FROM moves"))
		s.run(b, "docker volume inspect -f '{{json .Status}}' pgdata")
		s.check(b)
	})
	s.summary()
	return s.err
}

// check makes the demo fail when the story did not come true.
func (s *story) check(h *lab.Host) {
	if s.err != nil {
		return
	}
	count, err := h.Run(s.ctx, "docker exec db psql -qAt -h 127.0.0.1 -U postgres -c 'SELECT count(*) FROM moves'")
	if err == nil && strings.TrimSpace(count) != fmt.Sprint(rows) {
		err = fmt.Errorf("%s rows on %s, %d were written", count, h.Name(), rows)
	}
	s.err = err
}

func (s *story) summary() {
	fmt.Println("\nHow long each step took:")
	for _, step := range s.steps {
		fmt.Printf("  %6.1f s  %s\n", step.took.Seconds(), step.title)
	}
	if s.err != nil {
		return
	}
	fmt.Print(`
What to type next:
  make hosts     the same two hosts, to log in and try things
  make plugin    install the plugin in this machine's own Docker Engine
  make test      all checks
  make help      everything else
`)
}
