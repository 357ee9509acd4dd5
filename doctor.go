package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/plugin"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
)

// doctorPatience is how long the plugin may take for one finding: each check in there has a
// shorter limit of its own.
const doctorPatience = time.Minute

func doctorCommand(status *int) *cobra.Command {
	var data, bundle string
	var asJSON bool
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Check from the kernel to a write on each file system, and say what to change",
		Long: `Check, in this order, what a volume needs: the settings, the kernel's NFS client, and
for each file system in use the region and zone, its mount targets and who told them,
DNS, route and port of each mount target, the TLS handshake, the identity in use,
access, the catalogue, the clock, a write, and the latency to each zone. The running
plugin does it, with its own settings and credentials; nothing that is mounted is
disturbed, and the one file that is written, and removed, is in the catalogue.

A line is "ok", "warn" (it works; have a look), "FAIL", or "skip" (it builds on what
failed). Under what is not well stands why, and what to do about it: read the first
FAIL first. If the plugin does not run, that is the first, with where its log is.

--bundle also writes an archive for a report of a fault: the findings, the status, the
settings, the state, the NFS mounts and the end of the log. Values of credentials are not in
it; names of volumes and addresses are.

Exit status: 0 nothing failed (warnings may be there), 1 something failed or the plugin does
not answer, 2 wrong use, such as an archive that exists.`,
		Example: `  docker-volume-efs doctor
  docker-volume-efs doctor --data /var/lib/docker/plugins/$(docker plugin inspect -f '{{.Id}}' efs)/propagated-mount
  docker-volume-efs doctor --json | jq '.findings[] | select(.outcome == "failed")'
  docker-volume-efs doctor --bundle report.tar.gz`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			archive, err := newArchive(bundle) // before the checks: nobody likes to wait for a wrong name
			if err != nil {
				return err
			}
			defer archive.abandon()
			*status = exitTrouble
			ctx, stop := signal.NotifyContext(command.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return examine(ctx, data, asJSON, archive, os.Stdout, os.Stderr)
		},
	}
	command.Flags().StringVar(&data, "data", defaultData, "the data directory of the plugin")
	command.Flags().BoolVar(&asJSON, "json", false, "print JSON, when all is done")
	command.Flags().StringVar(&bundle, "bundle", "", "write an archive for a report of a fault to `FILE` (.tar.gz), which must not exist")
	return command
}

// examine has the plugin examined, shows what is found, and puts it into the archive, if there
// is one. What is not a finding goes to notes.
func examine(ctx context.Context, data string, asJSON bool, archive *archive, out, notes io.Writer) error {
	var report doctor.Report
	var text bytes.Buffer
	to := io.Writer(&text)
	if !asJSON {
		to = io.MultiWriter(out, &text)
	}
	shown := &doctor.Text{To: to}
	var failed error
	add := func(f doctor.Finding) {
		report.Add(f)
		failed = errors.Join(failed, shown.Write(f))
	}
	answered := askDoctor(ctx, data, add)
	if ctx.Err() != nil {
		return ctx.Err() // whoever asked has heard enough
	}
	failed = errors.Join(failed, shown.End(report))
	content, err := report.JSON()
	failed = errors.Join(failed, err)
	if asJSON && err == nil {
		_, err = out.Write(content)
		failed = errors.Join(failed, err)
	}
	if archive != nil {
		files := append([]doctor.File{{Name: "doctor.txt", Content: text.String()}, {Name: "doctor.json", Content: string(content)}}, evidence(ctx, data, answered)...)
		if err := archive.write(files); err != nil {
			return errors.Join(failed, err)
		}
		fmt.Fprintf(notes, "wrote %s; values of credentials are not in it, names of volumes, hosts and addresses are: look through it before you give it away\n", archive.path)
	}
	if failed == nil && !report.Healthy {
		failed = errTrouble
	}
	return failed
}

// askDoctor has the plugin tell its findings, and reports whether it did. If it does not answer,
// that is the first finding, and what can be asked from here comes after it.
func askDoctor(ctx context.Context, data string, add func(doctor.Finding)) (answered bool) {
	known := 0
	err := eachLine(ctx, data, plugin.DoctorPath, func(line []byte) error {
		var f doctor.Finding
		err := json.Unmarshal(line, &f)
		if err == nil {
			known++
			add(f)
		}
		return err
	})
	switch {
	case err != nil && known > 0:
		add(pluginFinding("stopped answering in the middle of the checks", err.Error(), "look at its log: "+logHint))
		return true
	case err == nil:
		return true
	}
	if refused, ok := errors.AsType[*refusal](err); ok && refused.code == http.StatusNotFound {
		add(pluginFinding("what runs there knows no doctor", "it is a gateway, or a plugin of an earlier version", "of a gateway ask: docker-volume-efs status --data "+data+"; upgrade an old plugin"))
	} else {
		add(pluginFinding("does not answer on "+filepath.Join(data, controlSocket), err.Error(),
			"docker plugin ls shows whether it is enabled, docker plugin enable efs enables it, and "+logHint+" is its log; "+
				"of a managed plugin give --data /var/lib/docker/plugins/$(docker plugin inspect -f '{{.Id}}' efs)/propagated-mount"))
	}
	var left sync.WaitGroup
	driver.ExamineKernel(ctx, &doctor.Runner{Report: add, Go: left.Go})
	left.Wait()
	return false
}

const logHint = "journalctl -u docker | grep plugin="

func pluginFinding(found, why, do string) doctor.Finding {
	f := doctor.Fail(found, why, do)
	f.Check = "plugin"
	return f
}

// eachLine asks on the control socket and hands on the answer line by line, as it comes.
func eachLine(ctx context.Context, data, path string, each func([]byte) error) error {
	client, done, err := controlClient(data)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(doctorPatience, func() { cancel(fmt.Errorf("no news within %v", doctorPatience)) })
	defer patience.Stop()
	answer, err := open(ctx, client, http.MethodGet, controlURL+path)
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	defer answer.Close()
	for decoder := json.NewDecoder(answer); ; {
		var line json.RawMessage
		switch err := decoder.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return errors.Join(err, context.Cause(ctx))
		}
		patience.Reset(doctorPatience)
		if err := each(line); err != nil {
			return err
		}
	}
}

// evidence is what the plugin adds to the archive, or what can be had of it without its help.
func evidence(ctx context.Context, data string, answered bool) []doctor.File {
	if answered {
		var files []doctor.File
		err := eachLine(ctx, data, plugin.FilesPath, func(line []byte) error {
			var f doctor.File
			err := json.Unmarshal(line, &f)
			files = append(files, f)
			return err
		})
		if err == nil {
			return files
		}
	}
	files := append([]doctor.File{{Name: "version.txt", Content: "docker-volume-efs " + version + ", the command; the plugin did not answer\n"}}, driver.Evidence(data)...)
	redact := doctor.NewRedactor(os.Environ())
	for i := range files {
		files[i].Content = redact.Text(files[i].Content)
	}
	return files
}

// archive is a file that is there whole or not at all.
type archive struct {
	path      string
	temporary *os.File
}

// newArchive makes sure that a file can be written there, and that nothing is in its place. Of
// no name it is nil.
func newArchive(path string) (*archive, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // none is wanted
	}
	if _, err := os.Lstat(path); err == nil {
		return nil, existing(path)
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return nil, fmt.Errorf("--bundle %s: %w", path, err)
	}
	return &archive{path, temporary}, nil
}

func existing(path string) error {
	return fmt.Errorf("--bundle %s: it exists; give another name, or remove it first", path)
}

// write writes the archive and gives it its name, which may have been taken meanwhile.
func (a *archive) write(files []doctor.File) error {
	err := doctor.WriteArchive(a.temporary, files, time.Now())
	if err == nil {
		err = a.temporary.Sync()
	}
	if err == nil {
		// By a link and not by a rename, which would replace what is there.
		err = os.Link(a.temporary.Name(), a.path)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return existing(a.path)
	case err != nil:
		return fmt.Errorf("--bundle %s: %w", a.path, err)
	}
	return nil
}

// abandon removes what is not needed any more.
func (a *archive) abandon() {
	if a == nil {
		return
	}
	_ = a.temporary.Close()
	_ = os.Remove(a.temporary.Name())
}
