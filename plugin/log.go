package plugin

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// logQueue is how many lines wait for a reader. With live-restore and dockerd
	// away nobody reads a plugin's output, and a write would block for good.
	logQueue = 2048
	// maxLine keeps a line below the 64 kB that dockerd takes.
	maxLine = 16 << 10
	// flushLimit is how long Close waits for the last lines to be taken.
	flushLimit = time.Second
	// maxRecent is how much of the latest lines is kept in memory, for a report of a fault.
	maxRecent = 128 << 10
)

// Log writes a logger's lines without ever blocking the logger: lines that
// nobody takes are dropped and counted. Information goes to one stream and warnings and
// errors to another, because dockerd marks a plugin's lines by stream.
type Log struct {
	lines    chan logLine
	done     chan struct{}
	out, err io.Writer

	mu      sync.Mutex // guards the following fields
	dropped int
	closed  bool
	recent  [][]byte // the latest lines, whether or not anybody took them
	size    int      // of recent, in bytes
}

type logLine struct {
	to   io.Writer
	text []byte
}

// NewLog returns a logger and its Log, whose Run the caller starts and whose
// Close it calls at the end.
func NewLog(out, errors io.Writer) (*logrus.Logger, *Log) {
	l := &Log{lines: make(chan logLine, logQueue), done: make(chan struct{}), out: out, err: errors}
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	logger.SetFormatter(&logrus.TextFormatter{DisableColors: true, FullTimestamp: true, TimestampFormat: time.RFC3339Nano})
	logger.AddHook(&logHook{log: l, formatter: logger.Formatter})
	return logger, l
}

// logHook gives each entry to the Log.
type logHook struct {
	log       *Log
	formatter logrus.Formatter
}

// Levels makes the hook see every entry.
func (h *logHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire formats the entry and queues it.
func (h *logHook) Fire(entry *logrus.Entry) error {
	text, err := h.formatter.Format(entry)
	if err != nil {
		return err
	}
	if len(text) > maxLine {
		text = append(text[:maxLine:maxLine], '\n')
	}
	to := h.log.out
	if entry.Level <= logrus.WarnLevel {
		to = h.log.err
	}
	h.log.queue(logLine{to: to, text: bytes.Clone(text)})
	return nil
}

func (l *Log) queue(line logLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.remember(line.text)
	if l.dropped > 0 && cap(l.lines)-len(l.lines) > 1 {
		l.lines <- l.droppedLine()
		l.dropped = 0
	}
	select {
	case l.lines <- line:
	default:
		l.dropped++
	}
}

// remember keeps a line, and drops the oldest beyond maxRecent; it is called with mu held.
func (l *Log) remember(text []byte) {
	l.recent = append(l.recent, text)
	l.size += len(text)
	for l.size > maxRecent {
		l.size -= len(l.recent[0])
		l.recent[0] = nil // or the array behind the slice keeps it
		l.recent = l.recent[1:]
	}
}

// Recent is the end of the log.
func (l *Log) Recent() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(bytes.Join(l.recent, nil))
}

// droppedLine says what is missing; it is called with mu held.
func (l *Log) droppedLine() logLine {
	return logLine{to: l.err, text: fmt.Appendf(nil, "level=warning msg=\"%d log lines were dropped: nobody read them\"\n", l.dropped)}
}

// Run writes lines until Close.
func (l *Log) Run() {
	defer close(l.done)
	for line := range l.lines {
		l.write(line)
	}
	l.mu.Lock()
	missing, last := l.dropped > 0, l.droppedLine()
	l.mu.Unlock()
	if missing {
		l.write(last)
	}
}

func (l *Log) write(line logLine) {
	// There is nobody to tell that the log cannot be written.
	_, _ = line.to.Write(line.text)
}

// Close has the queued lines written, if they are taken within a second.
func (l *Log) Close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.lines)
	}
	l.mu.Unlock()
	select {
	case <-l.done:
	case <-time.After(flushLimit):
	}
}
