package doctor

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/terminal"
)

// words are the outcomes for people, of one width.
func (o Outcome) word() string {
	switch o {
	case OK:
		return "ok  "
	case Warning:
		return "warn"
	case Skipped:
		return "skip"
	case Failed:
	}
	return "FAIL"
}

const (
	// nameWidth is that of most checks' names; a longer one moves what follows.
	nameWidth = 24
	indent    = "      "
	// slow is from when on a check's duration is shown.
	slow = time.Second
)

// Text writes findings for people, as they come.
type Text struct {
	// To is where they are written.
	To io.Writer

	fileSystem string
}

// Write writes one finding: a line, and under it the cause and what to do.
func (t *Text) Write(f Finding) error {
	var out strings.Builder
	if f.FileSystem != t.fileSystem {
		t.fileSystem = f.FileSystem
		if f.FileSystem != "" {
			fmt.Fprintf(&out, "\nFILE SYSTEM %s\n", terminal.Plain(f.FileSystem))
		}
	}
	fmt.Fprintf(&out, "%s  %-*s  %s", f.Outcome.word(), nameWidth, terminal.Plain(f.name()), terminal.Plain(f.Found))
	if f.Took >= slow {
		fmt.Fprintf(&out, " (%v)", f.Took.Round(100*time.Millisecond))
	}
	out.WriteByte('\n')
	for _, more := range []struct{ word, text string }{{"why:", f.Why}, {"do: ", f.Do}} {
		if more.text != "" {
			fmt.Fprintf(&out, "%s%s %s\n", indent, more.word, terminal.Plain(more.text))
		}
	}
	_, err := io.WriteString(t.To, out.String())
	return err
}

// End writes what it comes to.
func (t *Text) End(r Report) error {
	text := "all is well"
	if r.Failed+r.Warnings > 0 {
		text = fmt.Sprintf("%d failed, %d to be looked at, %d not asked because of that", r.Failed, r.Warnings, r.Skipped)
	}
	_, err := fmt.Fprintf(t.To, "\n%s\n", text)
	return err
}
