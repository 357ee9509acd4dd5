package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/web"
)

var errTrouble = errors.New("there is trouble, see above")

func statusCommand(exit *int) *cobra.Command {
	var data string
	var asJSON bool
	command := &cobra.Command{
		Use:   "status",
		Short: "Show file systems, mount targets, relays and mounts of the running plugin",
		Long: `Show how the running plugin on this host is: its file systems, their mount
targets with zone, state and traffic, relays, moves, what is mounted by whom and
since when, and what is wrong. It asks the control socket in the data directory;
the same is on the status page of EFS_HTTP.

Exit status: 0 all is well, 1 there is trouble or the plugin does not run, 2 wrong use.`,
		Example: `  docker-volume-efs status
  docker-volume-efs status --json | jq '.filesystems[].targets'`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			*exit = exitTrouble
			ctx, cancel := context.WithTimeout(command.Context(), askLimit)
			defer cancel()
			return showStatus(ctx, data, asJSON, os.Stdout)
		},
	}
	command.Flags().StringVar(&data, "data", defaultData, "the plugin's data directory")
	command.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return command
}

func showStatus(ctx context.Context, data string, asJSON bool, out io.Writer) error {
	var current status.Snapshot
	content, err := ask(ctx, data, http.MethodGet, "/status.json")
	if err == nil {
		err = json.Unmarshal(content, &current)
	}
	if err != nil {
		return fmt.Errorf("ask the running plugin: %w", err)
	}
	if asJSON {
		_, err = out.Write(content)
	} else {
		err = web.WriteText(out, current)
	}
	if err == nil && len(current.Troubles()) > 0 {
		err = errTrouble
	}
	return err
}
