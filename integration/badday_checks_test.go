//go:build integration

package integration

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// works checks that the whole life of a volume works, as the next correct call
// after a failure.
func (p *barePlugin) works(name string, options ...string) {
	p.t.Helper()
	p.mustCreate(name, options...)
	p.holds(name, "")
	p.mustRemove(name)
}

// holds checks that a volume mounts, that a file can be written in it, and that
// what an earlier holds wrote is there; text is that, or empty for a fresh volume.
func (p *barePlugin) holds(name, text string) {
	p.t.Helper()
	id := "holds-" + rand.Text()[:4]
	mountpoint := p.mustMount(name, id)
	file := mountpoint + "/held"
	got := p.sh("f=" + file + "; [ ! -e $f ] || echo \"$(<$f)\"; echo more >>$f")
	if got != text {
		p.t.Errorf("volume %s holds %q, want %q", name, got, text)
	}
	p.mustUnmount(name, id)
}

// fails checks that a call failed with one line that has all these words.
func (p *barePlugin) fails(err error, words ...string) {
	p.t.Helper()
	var answer bareError
	switch {
	case err == nil:
		p.t.Errorf("it works, want an error with %q", words)
		return
	case !errors.As(err, &answer):
		p.t.Errorf("no answer came: %v", err)
		return
	case strings.ContainsAny(answer.text, "\n\r"):
		p.t.Errorf("the error is not one line: %q", answer.text)
	}
	for _, word := range words {
		if !strings.Contains(answer.text, word) {
			p.t.Errorf("the error does not say %q: %s", word, answer.text)
		}
	}
}

// unused checks that nothing counts as in use: neither of these volumes, nor of any
// if none are named.
func (p *barePlugin) unused(names ...string) {
	p.t.Helper()
	for _, m := range p.status().Mounted {
		if len(m.Mounts) > 0 && (len(names) == 0 || slices.Contains(names, m.Volume)) {
			p.t.Errorf("volume %s counts %v", m.Volume, m.Mounts)
		}
	}
}

// leavesNothing checks that no count is left and, after the warm time, no mount and
// no mountpoint.
func (p *barePlugin) leavesNothing() {
	p.t.Helper()
	p.unused()
	err := bareWait(p.t, bareWarm+moment, func() error {
		if s := p.status(); len(s.Mounted) > 0 {
			return fmt.Errorf("on %s there is left: %v", p.host.Name(), s.Mounted)
		}
		return nil
	})
	if err != nil {
		p.t.Error(err)
	}
	if left := p.sh("ls " + p.data() + "/volumes; grep -o ' " + p.data() + "/volumes/[^ ]*' /proc/self/mountinfo || true"); left != "" {
		p.t.Errorf("on %s there is left: %s", p.host.Name(), left)
	}
}

// bareWait repeats a check until it passes or the time is over, and returns its last
// error.
func bareWait(t *testing.T, limit time.Duration, check func() error) error {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		err := check()
		if err == nil || time.Now().After(deadline) || t.Context().Err() != nil {
			return err
		}
	}
}

// bareRecord is a volume's record on the file system.
type bareRecord struct {
	Name, State, Path, FileSystem, Trash string
	Made                                 bool
}

// bareRecords reads all records of the catalogue under root, as the server has
// them, and reports those that are damaged.
func bareRecords(t *testing.T, root string) map[string]bareRecord {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, bareCatalogue, "volumes", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	records := map[string]bareRecord{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		var r bareRecord
		if err == nil {
			err = json.Unmarshal(content, &r)
		}
		if name := strings.TrimSuffix(filepath.Base(file), ".json"); err != nil || r.Name != name {
			t.Errorf("record %s is of %q: %v", name, r.Name, err)
		}
		records[r.Name] = r
	}
	return records
}

// bareConsistent checks a file system on which nobody is at work: each record is
// ready and has its directory, and each directory has its record.
func bareConsistent(t *testing.T, root string) {
	t.Helper()
	owned := map[string]bool{bareCatalogue: true}
	for _, r := range bareRecords(t, root) {
		if r.FileSystem != "" {
			continue // it points elsewhere
		}
		if r.State != "ready" {
			t.Errorf("volume %s is stuck: its record says %q", r.Name, r.State)
		}
		if info, err := os.Stat(filepath.Join(root, r.Path)); err != nil || !info.IsDir() {
			t.Errorf("volume %s is half there: it has a record and no directory %s", r.Name, r.Path)
		}
		owned[strings.Split(r.Path, "/")[1]] = true
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !owned[e.Name()] {
			t.Errorf("volume %s is half there: it has a directory and no record", e.Name())
		}
	}
}

// bareTidy is bareConsistent where nothing has crashed: then nothing is on its way
// either.
func bareTidy(t *testing.T, root string) {
	t.Helper()
	bareConsistent(t, root)
	// What hosts tell each other of their last mounts may still be on its way.
	err := bareWait(t, moment, func() error {
		if left := bareTmp(t, root); len(left) > 0 {
			return fmt.Errorf("left in tmp/: %v", left)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// bareTmp lists what is on its way into a catalogue.
func bareTmp(t *testing.T, root string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, bareCatalogue, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}
