package terminal_test

import (
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/terminal"
)

func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "pgdata": "pgdata", "café ✓": "café ✓", "two\nlines\tand a tab": "two lines and a tab", "\x1b[2Jgone\x00\x7f": "?[2Jgone??", "\u202eright to left": "?right to left",
	} {
		if got := terminal.Plain(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestRowHasOnlyItsOwnTabs(t *testing.T) {
	if got, want := terminal.Row("pg\tdata", "", "two\nlines"), "pg data\t\ttwo lines\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
