package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/keeper"
)

func relayCommand(status *int) *cobra.Command {
	var flags relayFlags
	var check bool
	command := &cobra.Command{
		Use:   "relay --listen ADDRESS:PORT --target ZONE=ADDRESS[:PORT][,backup] ...",
		Short: "Give other machines a way to the mount targets",
		Long: `Listen for NFS clients and pass each connection on to the mount target in use; when
that one fails, take all of them to another zone's. For machines that have no mount
target of their own, such as servers reached over a VPN.

With --tls, --iam or --access-point it shows EFS who it is, as the plugin does; to its
clients it speaks plain NFS.

With --peer-listen and --peer-connect two gateways carry the connections between
them over mutual TLS.

Targets are used in the order: --zone's own, the others by round-trip time, those that
are a backup. The names of the checks' knobs are HAProxy's; a number without a unit is
milliseconds. SIGHUP has certificates read again (changed files are seen without it),
SIGTERM ends it: new clients wait in the socket's queue, connected ones have --drain.

A crash of what serves closes no socket. Started by systemd's socket activation it
takes those sockets; docs/relay.md has the units.

Exit status: 0 ended as told; 1 there is trouble that may pass by itself, such as a
certificate that has expired or a region that is not known yet; 2 wrong use, which
is not worth another try.`,
		Example: `  docker-volume-efs relay --listen 0.0.0.0:2049 --allow 10.0.0.0/8 --zone eu-central-1a \
      --target eu-central-1a=10.0.1.5 --target eu-central-1b=10.0.2.5
  docker-volume-efs relay ... --check      # look whether all of it is right, and end`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			plan, err := flags.plan()
			if err != nil {
				return err
			}
			*status = exitTrouble
			switch {
			case check:
				return plan.check(command.Context())
			case keeper.IsWorker():
				return plan.serve()
			}
			exit, err := plan.keepServing(status)
			if err == nil && exit != 0 {
				err = exitStatus(exit)
			}
			return err
		},
	}
	flags.register(command.Flags())
	command.Flags().BoolVar(&check, "check", false, "check options and certificates, ask each target once, and end")
	return command
}

// check asks each target once.
func (p relayPlan) check(ctx context.Context) error {
	silent := logrus.New()
	silent.SetLevel(logrus.PanicLevel)
	g, err := p.gateway(silent)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "TARGET\tANSWER")
	failed := false
	for _, answer := range g.Check(ctx) {
		text := "answers in " + answer.RTT.Round(time.Microsecond).String()
		if answer.Err != nil {
			failed, text = true, answer.Err.Error()
		}
		fmt.Fprintf(table, "%s\t%s\n", answer.Target, text)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if failed {
		return errTrouble
	}
	return nil
}
