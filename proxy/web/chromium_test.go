//go:build browser

package web_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"
)

// browser is a headless Chromium that obeys over a pair of pipes (its option
// --remote-debugging-pipe: JSON messages of the DevTools protocol, each ended by a zero).
type browser struct {
	commands *os.File
	session  string // of the one page
	last     int    // the latest command's number

	answers chan message
	mu      sync.Mutex // guards events
	events  []message
}

type message struct {
	ID     int             `json:"id,omitempty"`
	Method string          `json:"method,omitempty"`
	Params json.RawMessage `json:"params,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  json.RawMessage `json:"error,omitempty"`
}

// browserLimit is how long it may take for anything.
const browserLimit = 60 * time.Second

// startBrowser fails the test where there is no Chromium: a page that nobody has
// looked at is not tested.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v: run scripts/setup.sh, or install Debian's package chromium", err)
	}
	theirIn, ourOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ourIn, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	// Its sandbox needs namespaces that root in a container has not; it sees
	// nothing but this test's own page.
	command := exec.Command(path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-extensions",
		"--user-data-dir="+home, "--remote-debugging-pipe", "about:blank")
	command.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home)
	command.ExtraFiles = []*os.File{theirIn, theirOut}
	var complaints bytes.Buffer
	command.Stderr = &complaints
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = theirIn.Close(), theirOut.Close()
	b := &browser{commands: ourOut, answers: make(chan message, 16)}
	var reading sync.WaitGroup
	reading.Go(func() { b.read(ourIn) })
	t.Cleanup(func() {
		_ = ourOut.Close() // tells it to end
		patience := time.AfterFunc(browserLimit, func() { _ = command.Process.Kill() })
		defer patience.Stop()
		_ = command.Wait()
		_ = ourIn.Close()
		reading.Wait()
		if t.Failed() {
			t.Logf("the browser says:\n%s", complaints.String())
		}
	})
	b.attach(t)
	return b
}

func (b *browser) read(from *os.File) {
	defer close(b.answers)
	reader := bufio.NewReader(from)
	for {
		text, err := reader.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(bytes.TrimSuffix(text, []byte{0}), &m) != nil {
			continue
		}
		if m.ID != 0 {
			b.answers <- m
			continue
		}
		b.mu.Lock()
		b.events = append(b.events, m)
		b.mu.Unlock()
	}
}

// call gives a command and waits for its result.
func (b *browser) call(t *testing.T, method string, params, result any) {
	t.Helper()
	b.last++
	command := map[string]any{"id": b.last, "method": method, "params": params}
	if b.session != "" {
		command["sessionId"] = b.session
	}
	text, err := json.Marshal(command)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.commands.Write(append(text, 0)); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	select {
	case answer, ok := <-b.answers:
		if !ok {
			t.Fatalf("%s: the browser has ended", method)
		}
		if answer.ID != b.last || answer.Error != nil {
			t.Fatalf("%s: answer %d to command %d: %s", method, answer.ID, b.last, answer.Error)
		}
		if result != nil {
			if err := json.Unmarshal(answer.Result, result); err != nil {
				t.Fatalf("%s: %v in %s", method, err, answer.Result)
			}
		}
	case <-time.After(browserLimit):
		t.Fatalf("%s: no answer within %v", method, browserLimit)
	}
}

func (b *browser) attach(t *testing.T) {
	t.Helper()
	var target struct{ TargetID string }
	b.call(t, "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call(t, "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Network", "Log", "Runtime"} {
		b.call(t, domain+".enable", map[string]any{}, nil)
	}
}

// open shows an address in a window, and returns when all of it is there.
func (b *browser) open(t *testing.T, url string, width, height int, phone, dark bool) {
	t.Helper()
	scale, scheme := 1, "light"
	if phone {
		scale = 2
	}
	if dark {
		scheme = "dark"
	}
	b.call(t, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}, nil)
	b.call(t, "Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	b.mu.Lock()
	b.events = nil
	b.mu.Unlock()
	var opened struct{ ErrorText string }
	b.call(t, "Page.navigate", map[string]any{"url": url}, &opened)
	if opened.ErrorText != "" {
		t.Fatalf("open %s: %s", url, opened.ErrorText)
	}
	for deadline := time.Now().Add(browserLimit); len(b.heard("Page.loadEventFired")) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s is not loaded within %v", url, browserLimit)
		}
	}
}

// heard are the events of that name since the page was opened.
func (b *browser) heard(method string) []json.RawMessage {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []json.RawMessage
	for _, event := range b.events {
		if event.Method == method {
			all = append(all, event.Params)
		}
	}
	return all
}

// evaluate runs a script in the page, past its policy.
func (b *browser) evaluate(t *testing.T, script string, value any) {
	t.Helper()
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	b.call(t, "Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true}, &answer)
	if answer.ExceptionDetails != nil {
		t.Fatalf("the script failed: %s", answer.ExceptionDetails)
	}
	if err := json.Unmarshal(answer.Result.Value, value); err != nil {
		t.Fatal(err)
	}
}

// requested are the addresses that the page made the browser ask for.
func (b *browser) requested() []string {
	var urls []string
	for _, params := range b.heard("Network.requestWillBeSent") {
		var sent struct{ Request struct{ URL string } }
		if json.Unmarshal(params, &sent) == nil {
			urls = append(urls, sent.Request.URL)
		}
	}
	return urls
}

// problems are what the browser logged: what the policy refused, what failed to load,
// what is deprecated.
func (b *browser) problems() []string {
	var all []string
	for _, params := range slices.Concat(b.heard("Log.entryAdded"), b.heard("Runtime.exceptionThrown")) {
		all = append(all, string(params))
	}
	return all
}
