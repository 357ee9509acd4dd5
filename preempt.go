package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/docker-volume-efs/docker-volume-efs/plugin"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/terminal"
)

// preemptLimit bounds a preemption, which asks the file system and its mount targets.
const preemptLimit = 30 * time.Second

func preemptCommand(status *int) *cobra.Command {
	var data string
	command := &cobra.Command{
		Use:   "preempt VOLUME",
		Short: "Take an exclusive volume from a host that is dead, without waiting",
		Long: `Take a volume with access=exclusive from the host that has it, without waiting until
that host's lease ends. Use it for a host that is known to be dead. Its NFS client is evicted from the
file system first: should the host live after all, its containers get errors, and what they had not
written yet is lost.

Exit status: 0 done, or no host has it; 1 it failed or the plugin does not run, 2 wrong use.`,
		Example: `  docker-volume-efs preempt pgdata`,
		Args:    cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			*status = exitTrouble
			ctx, cancel := context.WithTimeout(command.Context(), preemptLimit)
			defer cancel()
			content, err := ask(ctx, data, http.MethodPost, plugin.PreemptPath+"?"+url.Values{"volume": {args[0]}}.Encode())
			if err != nil {
				return err
			}
			var was struct {
				Host string `json:"host"`
			}
			if err := json.Unmarshal(content, &was); err != nil {
				return err
			}
			text := "no host has it"
			if was.Host != "" {
				text = "taken from host " + terminal.Plain(was.Host)
			}
			_, err = fmt.Fprintln(command.OutOrStdout(), text)
			return err
		},
	}
	command.Flags().StringVar(&data, "data", defaultData, "the data directory of the plugin")
	return command
}
