package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
	"github.com/docker-volume-efs/docker-volume-efs/plugin"
)

// bin plays the driver that has a trash.
type bin struct {
	entries  []string
	age      time.Duration
	what, as string
	dead     error // why it is not all of the trash
	empty    bool
	trouble  []string // of the volume data, in use or removed
}

func (*bin) Drain(string, bool) error { return nil }

func (b *bin) Trash(context.Context) ([]driver.Trashed, error) {
	if b.empty {
		return []driver.Trashed{}, b.dead
	}
	return []driver.Trashed{{Entry: "20261121T120000Z-ABCDEF-data", Volume: "data", FileSystem: "fs-1", Path: "/data", Removed: time.Unix(0, 0), Trouble: strings.Join(b.trouble, "; ")}}, b.dead
}

func (b *bin) Restore(_ context.Context, what, as string) (string, error) {
	if what == "nothing" {
		return "", errors.New("no such entry in the trash")
	}
	b.what, b.as = what, as
	return "restored", nil
}

func (b *bin) EmptyTrash(_ context.Context, entries []string, age time.Duration) (int, error) {
	b.entries, b.age = entries, age
	return 3, b.dead
}

// A file system that does not answer is told after what the others have.
func TestTrashCommandOfADeadFileSystem(t *testing.T) {
	b := &bin{dead: errors.New("the trash of fs-2: it does not answer")}
	data := controlled(t, b)
	const says = "the trash of fs-2: it does not answer"
	for _, row := range []struct {
		args  string
		empty bool
		out   string
	}{
		{"list", false, "20261121T120000Z-ABCDEF-data"},
		{"list", true, ""},
		{"list --json", false, `[{"entry":"20261121T120000Z-ABCDEF-data"`},
		{"list --json", true, "[]"},
		{"empty --all", false, "3 deleted\n"},
	} {
		b.empty = row.empty
		exit, out := perform(t, trashCommand, append(strings.Fields(row.args), "--data", data)...)
		out, found := strings.CutSuffix(out, says)
		if exit != exitTrouble || !found || !strings.Contains(out, row.out) || strings.Contains(out, "the trash is empty") {
			t.Errorf("%s: exit status %d, %q", row.args, exit, out)
		}
	}
}

// Scripts look at the exit status, whatever is listed.
func TestListsHaveTroubleInTheirExitStatus(t *testing.T) {
	data := controlled(t, &bin{trouble: []string{"its record is damaged"}})
	for _, row := range []struct {
		command func(*int) *cobra.Command
		args    string
		status  int
		shows   bool
	}{
		{volumesCommand, "", exitTrouble, true},
		{volumesCommand, "--json data", exitTrouble, true},
		{volumesCommand, "--size data", exitTrouble, true},
		{volumesCommand, "old", 0, false}, // another one is in trouble
		{trashCommand, "list", exitTrouble, true},
		{trashCommand, "list --json", exitTrouble, true},
	} {
		exit, out := perform(t, row.command, append(strings.Fields(row.args), "--data", data)...)
		if exit != row.status || strings.Contains(out, "its record is damaged") != row.shows {
			t.Errorf("%q: exit status %d, want %d: %s", row.args, exit, row.status, out)
		}
	}
}

func (b *bin) Volumes(context.Context) []driver.Volume {
	return []driver.Volume{{Name: "data", FileSystem: "fs-1", Path: "/data", Remove: "trash", UsedBy: []string{"web-1", "web-2"}, Trouble: b.trouble}, {Name: "old", Path: "/old", Remove: "trash", Adopted: true}}
}

func (*bin) Size(_ context.Context, name string, progress func(tree.Usage)) (tree.Usage, error) {
	progress(tree.Usage{Bytes: 1, Files: 1})
	if name == "old" {
		return tree.Usage{}, errors.New("size volume \"old\": its directory is gone")
	}
	return tree.Usage{Bytes: 3 << 20, Files: 7}, nil
}

// controlled has a control socket in the result, a data directory, that does what c does.
func controlled(t *testing.T, c plugin.Controlled) (data string) {
	t.Helper()
	data = t.TempDir()
	listener, err := plugin.Listen(filepath.Join(data, controlSocket))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- plugin.ServeControl(listener, http.NotFoundHandler(), c, nil) }()
	t.Cleanup(func() {
		_ = listener.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return data
}

// perform runs a command of cobra's and returns its exit status and what it says.
func perform(t *testing.T, make func(exit *int) *cobra.Command, args ...string) (status int, says string) {
	t.Helper()
	var out strings.Builder
	exit := exitUsage
	command := make(&exit)
	root := &cobra.Command{Use: "docker-volume-efs", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(command)
	root.SetArgs(append([]string{command.Name()}, args...))
	root.SetOut(&out)
	root.SetErr(io.Discard)
	if err := root.ExecuteContext(t.Context()); err != nil {
		return exit, out.String() + err.Error()
	}
	return 0, out.String()
}

func TestTrashCommand(t *testing.T) {
	b := &bin{}
	data := controlled(t, b)
	for _, row := range []struct {
		args   string
		status int
		says   string
		want   bin
	}{
		{"list", 0, "20261121T120000Z-ABCDEF-data", bin{}},
		{"list --json", 0, `"volume":"data"`, bin{}},
		{"restore data", 0, "restored\n", bin{what: "data"}},
		{"restore data --as other", 0, "restored\n", bin{what: "data", as: "other"}},
		{"restore nothing", 1, "no such entry in the trash", bin{}},
		{"restore", 2, "accepts 1 arg", bin{}},
		{"resotre data", 2, `unknown command "resotre" for "docker-volume-efs trash"`, bin{}},
		{"", 0, "Available Commands:", bin{}},
		{"empty a b", 0, "3 deleted\n", bin{entries: []string{"a", "b"}}},
		{"empty --all", 0, "3 deleted\n", bin{}},
		{"empty --older-than 30d", 0, "3 deleted\n", bin{age: 720 * time.Hour}},
		{"empty", 2, "--older-than, or --all", bin{}},
		{"empty a --all", 2, "--older-than, or --all", bin{}},
		{"empty --older-than yesterday", 2, "such as 30d", bin{}},
		{"list --data /nonexistent", 1, "list the trash", bin{}},
	} {
		t.Run(row.args, func(t *testing.T) {
			*b = bin{}
			args := strings.Fields(row.args)
			if !strings.Contains(row.args, "--data") {
				args = append(args, "--data", data)
			}
			exit, out := perform(t, trashCommand, args...)
			if exit != row.status || !strings.Contains(out, row.says) {
				t.Errorf("exit status %d, want %d: %q has no %q", exit, row.status, out, row.says)
			}
			if b.what != row.want.what || b.as != row.want.as || b.age != row.want.age || !slices.Equal(b.entries, row.want.entries) {
				t.Errorf("it was asked %+v, want %+v", *b, row.want)
			}
		})
	}
}

func (*bin) Preempt(_ context.Context, volume string) (string, error) {
	switch volume {
	case "held":
		return "web-2", nil
	case "free":
		return "", nil
	}
	return "", errors.New("no such volume")
}
