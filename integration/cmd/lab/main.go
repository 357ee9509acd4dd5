// Command lab builds, starts and enters the test hosts by hand; the tests start
// their own. See its --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

func main() {
	if err := command().Execute(); err != nil {
		if exit, ok := errors.AsType[exitCode](err); ok {
			os.Exit(int(exit))
		}
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// exitCode ends the program with the code of the process that did the work.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "lab",
		Short: "Test hosts: virtual machines with Docker and a real NFSv4.1 server",
		Long: `Test hosts: virtual machines with Docker and a real NFSv4.1 server.

Needs root on Debian 12 or 13, no hardware virtualisation. What the machine lacks
is installed with apt-get. Images are built once, into the cache directory
($XDG_CACHE_HOME or ~/.cache, docker-volume-efs); everything else lives in
namespaces of the running command and is gone when it ends.`,
		Example: `  lab hosts                        # in one terminal: start two hosts and the server
  lab ssh host-a                   # in another: log in
  lab ssh host-b docker ps         # or run one command
  lab ssh host-a mount -t nfs4 nfs:/export /mnt`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(imageCommand(), hostsCommand(), sshCommand())
	return root
}

func suiteFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("suite", lab.Suites()[0], "Debian release of the hosts: "+strings.Join(lab.Suites(), " or "))
}

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Build the hosts' image and snapshot, if the cache has none",
		Args:  cobra.NoArgs,
	}
	suite := suiteFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		return isolated(*suite, func(ctx context.Context) error {
			l, err := lab.Start(ctx, lab.Options{Suite: *suite, Hosts: []string{}, Log: os.Stderr})
			if err != nil {
				return err
			}
			return l.Close()
		})
	}
	return cmd
}

func hostsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hosts",
		Short: "Start hosts and server, until ctrl-C",
		Args:  cobra.NoArgs,
	}
	suite := suiteFlag(cmd)
	count := cmd.Flags().Int("count", 2, "number of hosts, 1 to 6")
	cmd.RunE = func(*cobra.Command, []string) error {
		if *count < 1 || *count > 6 {
			return fmt.Errorf("--count %d: choose 1 to 6", *count)
		}
		return isolated(*suite, func(ctx context.Context) error { return hosts(ctx, *suite, *count) })
	}
	return cmd
}

func hosts(ctx context.Context, suite string, count int) error {
	var names []string
	for _, letter := range "abcdef"[:count] {
		names = append(names, "host-"+string(letter))
	}
	l, err := lab.Start(ctx, lab.Options{Suite: suite, Hosts: names, Log: os.Stderr})
	if err != nil {
		return err
	}
	fmt.Printf(`
The NFS server exports /, /export, /readonly, /squash and /small at %s (zone a),
%s (zone b) and %s (zone c). From another terminal, as root:

`, l.Server.Addr("a"), l.Server.Addr("b"), l.Server.Addr("c"))
	for _, h := range l.Hosts() {
		fmt.Printf("  %s ssh %s          # %s\n", os.Args[0], h.Name(), h.Addr())
	}
	fmt.Printf("  %s ssh host-a mount -t nfs4 nfs:/export /mnt\n\nctrl-C ends it all.\n", os.Args[0])
	<-ctx.Done()
	return l.Close()
}

// isolated prepares the suite and runs work inside the lab's namespaces until it
// ends or a signal asks it to.
func isolated(suite string, work func(context.Context) error) error {
	code, done, err := lab.Isolate(func(ctx context.Context) error {
		return lab.Prepare(ctx, suite, os.Stderr)
	})
	if err != nil {
		return err
	}
	if done {
		if code != 0 {
			return exitCode(code)
		}
		return nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	return work(ctx)
}

func sshCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh HOST [command...]",
		Short: "Log in to a running host, or run a command on it",
		Long: `Log in to a host that "lab hosts" or a test runs, or run a command on it. The host
is reachable only from inside the lab's network, which this command enters. If
several labs run, it is the one started last.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return login(args[0], args[1:]) },
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// login replaces this process by ssh.
func login(name string, words []string) error {
	running, err := lab.FindRunning()
	if err != nil {
		return err
	}
	var names []string
	for _, host := range running {
		names = append(names, host.Name)
		if host.Name != name {
			continue
		}
		line := host.Shell(words...)
		program, err := exec.LookPath(line[0])
		if err != nil {
			return err
		}
		return fmt.Errorf("enter the lab (as root): %w", syscall.Exec(program, line, os.Environ()))
	}
	if len(names) == 0 {
		return errors.New("no host runs: start them with lab hosts in another terminal")
	}
	return fmt.Errorf("no host %q runs, only %s", name, strings.Join(names, ", "))
}
