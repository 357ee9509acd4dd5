package lab

import (
	"bytes"
	"io"
	"sync"
)

// buffer collects a command's output; it may be read while an abandoned command
// still writes to it.
type buffer struct {
	mu   sync.Mutex
	data bytes.Buffer // guarded by mu
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

// pidLine takes a command's standard error, keeps the first line, in which the
// command tells its process ID, and passes on the rest.
type pidLine struct {
	rest io.Writer

	mu    sync.Mutex
	first []byte // guarded by mu
	whole bool   // first is complete; guarded by mu
}

func (l *pidLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := p
	if !l.whole {
		var line []byte
		line, rest, l.whole = bytes.Cut(p, []byte("\n"))
		l.first = append(l.first, line...)
	}
	if len(rest) > 0 {
		if _, err := l.rest.Write(rest); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// pid is empty while the command has not begun.
func (l *pidLine) pid() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.whole {
		return ""
	}
	return string(l.first)
}
