package web_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/web"
)

func inText(t *testing.T, s status.Snapshot) string {
	t.Helper()
	var out strings.Builder
	if err := web.WriteText(&out, s); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// golden compares with a file under testdata, or rewrites that.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("it is not what %s has (rewrite it with -update):\n%s", path, got)
	}
}

func TestTheTerminalShowsEverything(t *testing.T) {
	for name, take := range map[string]func(time.Time) status.Snapshot{
		"filled": filled,
		"empty":  func(time.Time) status.Snapshot { return status.Snapshot{Version: "dev"} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { golden(t, name+".txt", inText(t, take(time.Now()))) })
		})
	}
}

// A terminal obeys escape sequences, wherever they come from.
func TestNamesDoNothingInATerminal(t *testing.T) {
	s := hostileSnapshot()
	s.Host += "\x1b[2J"
	s.Mounted[0].Name += "\x1b]0;x\a\t"
	lines := strings.Count(inText(t, status.Snapshot{}), "\n")
	text := inText(t, s)
	for _, r := range text {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Fatalf("%U is in the text:\n%q", r, text)
		}
	}
	if strings.Count(text, "<script>") < 20 {
		t.Errorf("names are missing (%d lines of an empty text):\n%s", lines, text)
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "x: y") {
			t.Errorf("a name made a line: %q", line)
		}
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("the pipe is closed") }

func TestTextThatCannotBeWrittenIsAnError(t *testing.T) {
	if err := web.WriteText(broken{}, status.Snapshot{}); err == nil {
		t.Error("no error")
	}
}
