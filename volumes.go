package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/plugin"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/terminal"
)

// listed is one volume as it is shown; Size is nil if nobody asked.
type listed struct {
	driver.Volume
	Size *plugin.Size `json:"size,omitempty"`
}

func volumesCommand(status *int) *cobra.Command {
	var data string
	var asJSON, sizes bool
	command := &cobra.Command{
		Use:   "volumes [NAME...]",
		Short: "List volumes: where each is, which hosts use it, and how large it is",
		Long: `List the volumes that this host knows of, or those named: where each is, what
docker volume rm would do with its data, and which hosts use it. With --size the plugin walks
through them to add up what they take, which lasts as long as they are large; on a terminal
it shows how far it is, and Ctrl-C ends it.

Exit status: 0 done, 1 a volume is in trouble or could not be shown, or the plugin does not
run, 2 wrong use.`,
		Example: `  docker-volume-efs volumes
  docker-volume-efs volumes --size pgdata
  docker-volume-efs volumes --json | jq -r '.[] | select(.used_by == []) | .volume'`,
		RunE: func(command *cobra.Command, names []string) error {
			*status = exitTrouble
			ctx, stop := signal.NotifyContext(command.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			all, err := listVolumes(ctx, data, names)
			if err != nil {
				return err
			}
			if sizes {
				if err := measure(ctx, data, all, command.ErrOrStderr()); err != nil {
					return err
				}
			}
			if asJSON {
				err = json.NewEncoder(command.OutOrStdout()).Encode(all)
			} else {
				err = printVolumes(command.OutOrStdout(), all, sizes)
			}
			return errors.Join(err, unmeasured(all), troubleOf(all))
		},
	}
	command.Flags().StringVar(&data, "data", defaultData, "the data directory of the plugin")
	command.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	command.Flags().BoolVar(&sizes, "size", false, "walk through the volumes and add up what they take")
	return command
}

func listVolumes(ctx context.Context, data string, names []string) ([]listed, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	content, err := ask(ctx, data, http.MethodGet, plugin.VolumesPath)
	if err != nil {
		return nil, fmt.Errorf("list the volumes: %w", err)
	}
	all := []listed{}
	if err := json.Unmarshal(content, &all); err != nil || len(names) == 0 {
		return all, err
	}
	for _, name := range names {
		if !slices.ContainsFunc(all, func(v listed) bool { return v.Name == name }) {
			return nil, fmt.Errorf("no volume %q is known on this host", name)
		}
	}
	return slices.DeleteFunc(all, func(v listed) bool { return !slices.Contains(names, v.Name) }), nil
}

// measure asks for the size of each volume, one after the other, and shows people how far it is.
func measure(ctx context.Context, data string, all []listed, progress io.Writer) error {
	if file, ok := progress.(*os.File); ok && !isTerminal(file) {
		progress = io.Discard
	}
	for i := range all {
		var last plugin.Size
		err := eachLine(ctx, data, plugin.SizePath+"?"+url.Values{"volume": {all[i].Name}}.Encode(), func(line []byte) error {
			last = plugin.Size{}
			if err := json.Unmarshal(line, &last); err != nil {
				return err
			}
			fmt.Fprintf(progress, "\r%s: %s in %d files so far\x1b[K", terminal.Plain(all[i].Name), bytesText(last.Bytes), last.Files)
			return nil
		})
		fmt.Fprint(progress, "\r\x1b[K")
		if err == nil && !last.Done && last.Error == "" {
			err = errors.New("the plugin ended in the midst of it")
		}
		if err != nil {
			return fmt.Errorf("size of volume %q: %w", all[i].Name, err)
		}
		all[i].Size = &last
	}
	return nil
}

func isTerminal(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// unmeasured is why sizes are missing.
func unmeasured(all []listed) error {
	var failed error
	for _, v := range all {
		if v.Size != nil && v.Size.Error != "" {
			failed = errors.Join(failed, errors.New(v.Size.Error))
		}
	}
	return failed
}

// troubleOf is trouble if a volume has any, which the list shows.
func troubleOf(all []listed) error {
	if slices.ContainsFunc(all, func(v listed) bool { return len(v.Trouble) > 0 }) {
		return errTrouble
	}
	return nil
}

func printVolumes(out io.Writer, all []listed, sizes bool) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "no volume is known on this host")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	titles := []string{"VOLUME", "FILE SYSTEM", "PATH", "REMOVE", "USED BY"}
	if sizes {
		titles = append(titles, "SIZE", "FILES")
	}
	fmt.Fprint(table, terminal.Row(append(titles, "TROUBLE")...))
	for _, v := range all {
		remove := v.Remove
		if v.Adopted {
			remove = "keep, adopted"
		}
		cells := []string{v.Name, v.FileSystem, v.Path, remove, strings.Join(v.UsedBy, " ")}
		if sizes {
			cells = append(cells, bytesText(v.Size.Bytes), fmt.Sprint(v.Size.Files))
		}
		fmt.Fprint(table, terminal.Row(append(cells, strings.Join(v.Trouble, "; "))...))
	}
	return table.Flush()
}

// bytesText is a number of bytes for people.
func bytesText(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, units := float64(n), "KMGTPE"
	i := -1
	for value >= unit && i < len(units)-1 {
		value /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", value, units[i])
}
