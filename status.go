package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/docker-volume-efs/docker-volume-efs/plugin"
)

var errTrouble = errors.New("there is trouble, see above")

func statusCommand(status *int) *cobra.Command {
	var data string
	var asJSON bool
	command := &cobra.Command{
		Use:   "status",
		Short: "Show file systems and mounts of the running plugin",
		Long: `Show how the running plugin on this host is: its file systems, what is mounted
and since when, and what is wrong. It asks the control socket in the data directory.

Exit status: 0 all is well, 1 there is trouble or the plugin does not run, 2 wrong use.`,
		Example: `  docker-volume-efs status
  docker-volume-efs status --json | jq .filesystems`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			*status = exitTrouble
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
	current, err := askStatus(ctx, data)
	if err != nil {
		return fmt.Errorf("ask the running plugin: %w", err)
	}
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(current)
	} else {
		err = printStatus(current, out)
	}
	if err == nil && !current.Healthy() {
		err = errTrouble
	}
	return err
}

func askStatus(ctx context.Context, data string) (plugin.Status, error) {
	var current plugin.Status
	content, err := ask(ctx, data, http.MethodGet, "/status.json")
	if err == nil {
		err = json.Unmarshal(content, &current)
	}
	return current, err
}

func printStatus(s plugin.Status, out io.Writer) error {
	fmt.Fprintf(out, "docker-volume-efs %s on %s, %d volumes known\n", s.Version, s.Host, s.Volumes)
	if s.Settings != "" {
		fmt.Fprintln(out, "settings:", s.Settings)
	}
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "\nFILE SYSTEM\tMOUNT TARGET\tSINCE\tSTATE")
	for _, f := range s.FileSystems {
		state := "not connected yet"
		if f.Connected {
			state = "connected"
		}
		if f.Trouble != "" {
			state = f.Trouble
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", f.FileSystem, orDash(f.MountTarget), timeText(f.Since), state)
	}
	fmt.Fprintln(table, "\nVOLUME\tMOUNTED SINCE\tMOUNT IDS\tSTATE")
	for _, m := range s.Mounted {
		state := "ok"
		if len(m.Trouble) > 0 {
			state = strings.Join(m.Trouble, "; ")
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", m.Volume, timeText(m.Since), mountIDs(m.Mounts), state)
	}
	return table.Flush()
}

// mountIDs shows who holds a mount, by the first characters of Docker's IDs.
func mountIDs(counts map[string]int) string {
	const shown = 12
	var texts []string
	for _, id := range slices.Sorted(maps.Keys(counts)) {
		texts = append(texts, fmt.Sprintf("%.*s×%d", shown, id, counts[id]))
	}
	return orDash(strings.Join(texts, " "))
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
