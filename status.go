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

	"github.com/docker-volume-efs/docker-volume-efs/proxy/gateway"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/web"
)

var errTrouble = errors.New("there is trouble, see above")

func statusCommand(exit *int) *cobra.Command {
	var data, address string
	var asJSON bool
	command := &cobra.Command{
		Use:   "status",
		Short: "Show file systems, mount targets, relays and mounts of the running plugin",
		Long: `Show how the running plugin on this host is: its file systems, their mount
targets with zone, state and traffic, relays, moves, what is mounted by whom and
since when, which volumes other hosts use, and what is wrong. It asks the control socket in the data directory, or
with --http the address of the status page (EFS_HTTP). Of a gateway (the relay command), show
its targets and clients.

Exit status: 0 all is well, 1 there is trouble or nothing runs there, 2 wrong use.`,
		Example: `  docker-volume-efs status
  docker-volume-efs status --data /run/docker-volume-efs-relay     # of a gateway
  docker-volume-efs status --http 127.0.0.1:9199
  docker-volume-efs status --json | jq '.filesystems[].targets'`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			*exit = exitTrouble
			ctx, cancel := context.WithTimeout(command.Context(), askLimit)
			defer cancel()
			if address != "" {
				return showStatus(asJSON, os.Stdout, func(path string) ([]byte, error) { return askHTTP(ctx, address, path) })
			}
			return showStatus(asJSON, os.Stdout, func(path string) ([]byte, error) { return ask(ctx, data, http.MethodGet, path) })
		},
	}
	command.Flags().StringVar(&data, "data", defaultData, "the data directory of the plugin or gateway")
	command.Flags().StringVar(&address, "http", "", "ask the status page's `ADDRESS:PORT` instead, also on another machine")
	command.MarkFlagsMutuallyExclusive("data", "http")
	command.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return command
}

func showStatus(asJSON bool, out io.Writer, ask func(path string) ([]byte, error)) error {
	content, err := ask("/status.json")
	if err != nil {
		return fmt.Errorf("ask the running plugin or gateway: %w", err)
	}
	current, err := readStatus(content)
	if err != nil {
		return err
	}
	if asJSON {
		_, err = out.Write(content)
	} else {
		err = current.print(out)
	}
	if err == nil && !current.healthy {
		err = errTrouble
	}
	return err
}

// told is the status of whatever runs there.
type told struct {
	healthy bool
	print   func(io.Writer) error
}

// readStatus tells a plugin's status from a gateway's.
func readStatus(content []byte) (told, error) {
	var ofGateway struct {
		Version string            `json:"version"`
		Host    string            `json:"host"`
		Gateway *gateway.Overview `json:"gateway"`
	}
	var current status.Snapshot
	if err := errors.Join(json.Unmarshal(content, &ofGateway), json.Unmarshal(content, &current)); err != nil {
		return told{}, fmt.Errorf("the answer is no status: %w", err)
	}
	if ofGateway.Gateway == nil {
		return told{len(current.Troubles()) == 0, func(out io.Writer) error { return web.WriteText(out, current) }}, nil
	}
	s := gateway.Status{Version: ofGateway.Version, Host: ofGateway.Host, Gateway: *ofGateway.Gateway}
	return told{s.Healthy(), func(out io.Writer) error { return printGateway(s, out) }}, nil
}
