package lab

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
)

// consoleLimit bounds what is kept of a serial console: more than any boot says.
const consoleLimit = 1 << 20

// console is a host's serial line: it keeps what the host says and can run
// commands while the host has no address yet. The guest's lab-console answers.
type console struct {
	in io.Writer

	mu      sync.Mutex
	text    []byte        // guarded by mu
	dropped int           // bytes cut off in front of text; guarded by mu
	changed chan struct{} // closed and replaced when text grows; guarded by mu
	ended   bool          // the machine is gone; guarded by mu
}

func newConsole(in io.Writer) *console {
	return &console{in: in, changed: make(chan struct{})}
}

// Write takes what the machine says.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, p...)
	if cut := len(c.text) - consoleLimit; cut > 0 {
		c.text = append([]byte(nil), c.text[cut:]...)
		c.dropped += cut
	}
	c.wake()
	return len(p), nil
}

// end tells all who wait that no more will come.
func (c *console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.wake()
}

// wake is called with mu held.
func (c *console) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// position is where the next output will begin, for wait.
func (c *console) position() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped + len(c.text)
}

// wait returns the line that contains mark, said after position from.
func (c *console) wait(ctx context.Context, from int, mark string) (string, error) {
	for {
		c.mu.Lock()
		text, changed, ended := string(c.text[min(max(from-c.dropped, 0), len(c.text)):]), c.changed, c.ended
		c.mu.Unlock()
		if _, after, found := strings.Cut(text, mark); found {
			if rest, _, whole := strings.Cut(after, "\n"); whole {
				return mark + strings.TrimRight(rest, "\r"), nil
			}
		}
		if ended {
			return "", fmt.Errorf("the machine ended before it said %q; its console ends: %s", mark, tail(text))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("wait until the console says %q: %w; it ends: %s", mark, ctx.Err(), tail(text))
		}
	}
}

// run has the guest run one line of shell; an error carries the output.
func (c *console) run(ctx context.Context, line string) error {
	from := c.position()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		return fmt.Errorf("write to the console: %w", err)
	}
	status, err := c.wait(ctx, from, "lab: status ")
	if err != nil {
		return fmt.Errorf("run %q on the console: %w", line, err)
	}
	if status != "lab: status 0" {
		c.mu.Lock()
		defer c.mu.Unlock()
		return fmt.Errorf("run %q on the console: %s: %s", line, status, tail(string(c.text[max(from-c.dropped, 0):])))
	}
	return nil
}

// tail is what somebody wants to see of a long text: its end, and of a kernel that
// has died what it said first.
func tail(text string) string {
	const limit = 2000
	end := strings.TrimSpace(text[max(len(text)-limit, 0):])
	if at := death.FindStringIndex(text); at != nil && at[0] < len(text)-limit {
		first := text[at[0]:min(at[0]+limit, len(text)-limit)]
		return first + "\n[...]\n" + end
	}
	return end
}

// death is how a Linux kernel begins to tell of its own end.
var death = regexp.MustCompile(`(?m)^.*(BUG: |Oops|general protection|kernel BUG at|invalid opcode|int3:|divide error|stack segment|traps: PANIC)`)
