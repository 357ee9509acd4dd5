package plugin

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
)

// With live-restore nobody reads a plugin's output while dockerd is away.
func TestRule9LoggingNeverBlocks(t *testing.T) {
	const many = 100_000
	reader, writer := io.Pipe() // nothing is taken until somebody reads
	logger, lines := NewLog(writer, writer)
	var running sync.WaitGroup
	running.Go(lines.Run)

	start, done := time.Now(), make(chan struct{})
	go func() {
		defer close(done)
		for i := range many {
			logger.Infof("line %d", i)
		}
	}()
	select {
	case <-done:
		t.Logf("%d lines that nobody reads took %v", many, time.Since(start))
	case <-time.After(time.Minute):
		t.Errorf("%d lines that nobody reads take longer than %v", many, time.Since(start))
	}

	// Dockerd is back: what was kept comes, and how much is missing.
	got := make(chan string)
	go func() {
		all, _ := io.ReadAll(reader)
		got <- string(all)
	}()
	for deadline := time.Now().Add(5 * time.Second); len(lines.lines) > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	logger.Info("dockerd is back")
	lines.Close()
	running.Wait()
	writer.Close()
	text := <-got
	kept := strings.Count(text, "msg=\"line ")
	if want := fmt.Sprintf("%d log lines were dropped", many-kept); !strings.Contains(text, want) || kept < logQueue || kept == many {
		t.Errorf("%d lines were kept, want the words %q:\n%s", kept, want, text[max(0, len(text)-500):])
	}
	if !strings.Contains(text, "dockerd is back") {
		t.Error("the line after the dropped ones is missing")
	}
}

func TestRule9CloseDoesNotWaitForAReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader, writer := io.Pipe()
		logger, lines := NewLog(writer, writer)
		var running sync.WaitGroup
		running.Go(lines.Run)
		logger.Info("never read")
		start := time.Now()
		lines.Close()
		if took := time.Since(start); took != flushLimit {
			t.Errorf("Close took %v", took)
		}
		logger.Info("too late") // and does no harm
		lines.Close()
		reader.Close() // lets Run end
		running.Wait()
	})
}

func TestRule9CallsAreAnsweredWhileNobodyReadsTheLog(t *testing.T) {
	reader, writer := io.Pipe()
	logger, lines := NewLog(writer, writer)
	var running sync.WaitGroup
	running.Go(lines.Run)
	e := newEngine(t, &fakeVolumes{}, func(s *Server) { s.log = logger })
	start := time.Now()
	for range logQueue + 100 {
		e.mustAnswer("Unmount", `{"Name":"data","ID":"b87d"}`, 200, `{}`)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("the calls took %v", took)
	}
	reader.Close()
	lines.Close()
	running.Wait()
}

func TestLinesLeftAreWrittenAtTheEnd(t *testing.T) {
	var out bytes.Buffer
	logger, lines := NewLog(&out, &out)
	for i := range logQueue + 10 { // Run starts late
		logger.Infof("line %d", i)
	}
	var running sync.WaitGroup
	running.Go(lines.Run)
	lines.Close()
	running.Wait()
	text := out.String()
	if got := strings.Count(text, "msg=\"line "); got != logQueue {
		t.Errorf("%d lines were written", got)
	}
	if !strings.Contains(text, "10 log lines were dropped") {
		t.Errorf("it ends without a word on those that are missing: %s", text[len(text)-200:])
	}
}

// Dockerd marks a plugin's lines by stream: what is on standard error looks like
// an error.
func TestLevelsAreSplitOverTheStreams(t *testing.T) {
	var out, errors bytes.Buffer
	logger, lines := NewLog(&out, &errors)
	logger.SetLevel(logrus.DebugLevel)
	for _, level := range []logrus.Level{logrus.DebugLevel, logrus.InfoLevel, logrus.WarnLevel, logrus.ErrorLevel} {
		logger.Log(level, "a line")
	}
	var running sync.WaitGroup
	running.Go(lines.Run)
	lines.Close()
	running.Wait()
	for stream, want := range map[*bytes.Buffer][]string{&out: {"debug", "info"}, &errors: {"warning", "error"}} {
		var got []string
		for line := range strings.Lines(stream.String()) {
			_, level, _ := strings.Cut(line, "level=")
			got = append(got, strings.Fields(level)[0])
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("one stream has %v, want %v", got, want)
		}
	}
}

func TestEachEntryIsOneLineThatDockerdTakes(t *testing.T) {
	var out bytes.Buffer
	logger, lines := NewLog(&out, &out)
	logger.WithField("volume", "a\nb").Info("first\nsecond\r\x00\x1b[31m")
	logger.Info(strings.Repeat("long ", 100_000))
	logger.SetLevel(logrus.InfoLevel)
	logger.Debug("not wanted")
	var running sync.WaitGroup
	running.Go(lines.Run)
	lines.Close()
	running.Wait()
	got := strings.SplitAfter(out.String(), "\n")
	if len(got) != 3 || got[2] != "" {
		t.Fatalf("%d lines: %.300q", len(got)-1, got)
	}
	if strings.ContainsAny(strings.TrimSuffix(got[0], "\n"), "\n\r\x00\x1b") || !strings.Contains(got[0], `first\nsecond`) {
		t.Errorf("control characters went through: %q", got[0])
	}
	if len(got[1]) > 64<<10 {
		t.Errorf("a line has %d bytes", len(got[1]))
	}
}
