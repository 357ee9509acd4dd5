package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
)

func drainCommand(status *int) *cobra.Command {
	var data string
	var undo bool
	command := &cobra.Command{
		Use:   "drain ZONE",
		Short: "Move what is mounted away from a zone's mount targets, or let them be used again",
		Long: `Move all that the running plugin has mounted from an availability zone's mount
targets to another zone's, without an error in any container, and do not go
there until --undo, also after a restart of the plugin. Use it before work on a zone.
A gateway (the relay command) is told by its own --data; its restart ends it.

Exit status: 0 nothing uses the zone any more, 1 something still does, or the plugin does
not run or has no such zone, 2 wrong use.`,
		Example: `  docker-volume-efs drain eu-central-1a
  docker-volume-efs drain eu-central-1a --undo`,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			*status = exitTrouble
			ctx, cancel := context.WithTimeout(command.Context(), askLimit)
			defer cancel()
			query := url.Values{"zone": {args[0]}, "on": {strconv.FormatBool(!undo)}}
			if _, err := ask(ctx, data, http.MethodPost, "/drain?"+query.Encode()); err != nil {
				return fmt.Errorf("drain zone %s: %w", args[0], err)
			}
			return nil
		},
	}
	command.Flags().StringVar(&data, "data", defaultData, "the data directory of the plugin or gateway")
	command.Flags().BoolVar(&undo, "undo", false, "let the zone be used again")
	return command
}
