package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/plugin"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/terminal"
)

// trashLimit bounds a question about the trash, which goes to the file systems: one that is dead is given up by the plugin
// after ten seconds, one with a full trash has some questions to answer for each entry.
const trashLimit = 2 * time.Minute

func trashCommand(status *int) *cobra.Command {
	var data string
	command := &cobra.Command{
		Use:   "trash",
		Short: "List removed volumes, bring them back, or delete them for good",
		Long: `What docker volume rm removed is in the trash of its file system, with owner, options
and time, unless the volume has remove=keep or remove=delete. It stays there until somebody
empties the trash or EFS_TRASH_KEEP is over. Every host with the plugin sees the same trash.

Exit status: 0 done, 1 it failed, an entry of the list is in trouble, a file system did not
answer or the plugin does not run, 2 wrong use.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() }, // without it cobra does not look at Args
	}
	command.PersistentFlags().StringVar(&data, "data", defaultData, "the data directory of the plugin")
	command.AddCommand(trashList(status, &data), trashRestore(status, &data), trashEmpty(status, &data))
	return command
}

// askTrash asks and reads the answer.
func askTrash(ctx context.Context, data, method, path string, query url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, trashLimit)
	defer cancel()
	content, err := ask(ctx, data, method, path+"?"+query.Encode())
	if err != nil {
		return err
	}
	return json.Unmarshal(content, into)
}

func trashList(status *int, data *string) *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use:     "list",
		Short:   "List removed volumes, the latest first",
		Example: `  docker-volume-efs trash list`,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			*status = exitTrouble
			var list plugin.TrashList
			if err := askTrash(command.Context(), *data, http.MethodGet, plugin.TrashPath, nil, &list); err != nil {
				return fmt.Errorf("list the trash: %w", err)
			}
			var err error
			if asJSON {
				err = json.NewEncoder(command.OutOrStdout()).Encode(list.Entries)
			} else if len(list.Entries) > 0 || list.Trouble == "" {
				err = printTrash(command.OutOrStdout(), list.Entries)
			}
			if list.Trouble != "" {
				err = errors.Join(err, fmt.Errorf("list the trash: %s", list.Trouble))
			}
			if slices.ContainsFunc(list.Entries, func(t driver.Trashed) bool { return t.Trouble != "" }) {
				err = errors.Join(err, errTrouble)
			}
			return err
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return command
}

func printTrash(out io.Writer, all []driver.Trashed) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "the trash is empty")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, terminal.Row("ENTRY", "VOLUME", "REMOVED", "PATH", "FILE SYSTEM", "TROUBLE"))
	for _, one := range all {
		fmt.Fprint(table, terminal.Row(one.Entry, one.Volume, one.Removed.Local().Format(time.DateTime),
			one.Path, one.FileSystem, one.Trouble))
	}
	return table.Flush()
}

func trashRestore(status *int, data *string) *cobra.Command {
	var as string
	command := &cobra.Command{
		Use:   "restore ENTRY|VOLUME",
		Short: "Make a removed volume a volume again, with its data, owner and options",
		Long: `Make a removed volume a volume again, with its data, owner and options. By a volume's
name the one that was removed last is meant. Nothing that is there is touched: if there is a
volume of that name by now, or a directory at its path, give another name with --as.`,
		Example: `  docker-volume-efs trash restore pgdata
  docker-volume-efs trash restore 20261121T101500Z-ABC123-pgdata --as pgdata-of-saturday`,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			*status = exitTrouble
			var answer struct {
				Volume string `json:"volume"`
			}
			query := url.Values{"what": {args[0]}, "as": {as}}
			if err := askTrash(command.Context(), *data, http.MethodPost, plugin.RestorePath, query, &answer); err != nil {
				return err
			}
			_, err := fmt.Fprintln(command.OutOrStdout(), answer.Volume)
			return err
		},
	}
	command.Flags().StringVar(&as, "as", "", "the volume's new `NAME`")
	return command
}

func trashEmpty(status *int, data *string) *cobra.Command {
	var all bool
	var older string
	command := &cobra.Command{
		Use:   "empty [ENTRY...]",
		Short: "Delete removed volumes for good",
		Long: `Delete removed volumes for good: the entries given, all that were removed longer ago
than --older-than, or --all. The plugin deletes in the background, and goes on after a restart.`,
		Example: `  docker-volume-efs trash empty 20261121T101500Z-ABC123-pgdata
  docker-volume-efs trash empty --older-than 30d
  docker-volume-efs trash empty --all`,
		RunE: func(command *cobra.Command, entries []string) error {
			given := 0
			for _, yes := range []bool{len(entries) > 0, all, older != ""} {
				if yes {
					given++
				}
			}
			if given != 1 {
				return errors.New("give entries, --older-than, or --all: docker-volume-efs trash list shows what is there")
			}
			query := url.Values{"entry": entries}
			if older != "" {
				age, err := driver.Age(older)
				if err != nil {
					return fmt.Errorf("--older-than %s: %w", older, err)
				}
				query.Set("older", age.String())
			}
			*status = exitTrouble
			var answer plugin.TrashEmptied
			if err := askTrash(command.Context(), *data, http.MethodPost, plugin.EmptyPath, query, &answer); err != nil {
				return fmt.Errorf("empty the trash: %w", err)
			}
			_, err := fmt.Fprintf(command.OutOrStdout(), "%d deleted\n", answer.Deleted)
			if answer.Trouble != "" {
				err = errors.Join(err, fmt.Errorf("empty the trash: %s", answer.Trouble))
			}
			return err
		},
	}
	command.Flags().BoolVar(&all, "all", false, "delete all that docker volume rm put there")
	command.Flags().StringVar(&older, "older-than", "", "delete what was removed longer ago than that `AGE`, such as 30d")
	return command
}
