//go:build browser

package web_test

import (
	"encoding/base64"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

// artefacts is where screenshots are kept for people to look at.
const artefacts = "../../build/status-page"

// A page as a browser shows it. Positions are in CSS pixels.
type rendered struct {
	Inner    float64  // the window's width
	Scroll   float64  // the page's width
	Beyond   []string // what reaches over the window's edge, or over its own cell
	Small    []string // text that nobody reads without glasses
	Pale     []string // text with less contrast than WCAG 2 AA asks for
	Covered  []string // text that another text lies upon
	Styled   bool     // the style was allowed by the policy and taken
	Text     string   // what can be seen
	Tables   int
	Problems []string // what the browser complained of
}

// look is run in the page by the browser itself; the page has no script.
const look = `(() => {
  const out = {Inner: innerWidth, Scroll: document.documentElement.scrollWidth, Beyond: [], Small: [], Pale: [], Covered: [],
    Styled: getComputedStyle(document.body).backgroundColor !== "rgba(0, 0, 0, 0)",
    Text: document.body.innerText, Tables: document.querySelectorAll("table").length};
  const name = e => e.tagName.toLowerCase() + " " + JSON.stringify(e.textContent.trim().slice(0, 40));
  const rgb = text => text.match(/[\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const back = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const boxes = [];
  for (const e of document.body.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    if (box.width === 0 || box.height === 0) continue;
    if (box.right > innerWidth + 0.5 || box.left < -0.5) out.Beyond.push(name(e) + " to " + box.right);
    if (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline") out.Beyond.push(name(e) + " over its own edge");
    for (const node of e.childNodes) {
      if (node.nodeType !== Node.TEXT_NODE || !node.data.trim()) continue;
      const style = getComputedStyle(e);
      if (parseFloat(style.fontSize) < 12) out.Small.push(name(e) + " " + style.fontSize);
      const a = light(rgb(style.color).slice(0, 3)), b = light(back(e).slice(0, 3));
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (contrast < 4.5) out.Pale.push(name(e) + " " + contrast.toFixed(2));
      const range = document.createRange();
      range.selectNodeContents(node);
      for (const r of range.getClientRects()) if (r.width > 1) boxes.push([r, e]);
    }
  }
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const [a, e] = boxes[i], [b, f] = boxes[j];
    if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 6)
      out.Covered.push(name(e) + " and " + name(f));
  }
  return out;
})()`

// windows are what people look through.
var windows = []struct {
	name          string
	width, height int
	phone, dark   bool
}{
	{"phone", 360, 740, true, false},
	{"phone-dark", 360, 740, true, true},
	{"small-phone", 320, 568, true, false},
	{"tablet", 768, 1024, true, false},
	{"table", 1153, 800, false, false},
	{"desktop", 1280, 900, false, false},
	{"desktop-dark", 1280, 900, false, true},
}

func TestBrowserShowsThePageInEveryWindow(t *testing.T) {
	if err := os.MkdirAll(artefacts, 0o755); err != nil {
		t.Fatal(err)
	}
	hostile := hostileSnapshot()
	hostile.FileSystems[0].FileSystem = strings.Repeat("an-endless-name", 20)
	hostile.Host = strings.Repeat("x", 300)
	browser := startBrowser(t)
	for name, snapshot := range map[string]status.Snapshot{
		"filled": filled(time.Now()), "empty": {Version: "dev"}, "hostile": hostile,
	} {
		server := httptest.NewServer(of(snapshot))
		defer server.Close()
		for _, w := range windows {
			t.Run(name+" in "+w.name, func(t *testing.T) {
				browser.open(t, server.URL, w.width, w.height, w.phone, w.dark)
				file := filepath.Join(artefacts, fmt.Sprintf("%s-%s.png", name, w.name))
				if err := os.WriteFile(file, browser.screenshot(t), 0o644); err != nil {
					t.Fatal(err)
				}
				var got rendered
				browser.evaluate(t, look, &got)
				got.Problems = browser.problems()
				got.check(t, w.width)
				if name == "filled" {
					for _, want := range []string{"eu-west-1b", "10.0.1.5:2049", "connection timed out", "pgdata", "1.24 ms", "3.00 TiB", "4 in trouble", "timeout", "127.0.0.1:40103"} {
						if !strings.Contains(got.Text, want) {
							t.Errorf("nobody sees %q", want)
						}
					}
				}
			})
		}
	}
}

func (r rendered) check(t *testing.T, width int) {
	t.Helper()
	if int(r.Inner) != width {
		t.Errorf("the window is %v wide, want %d", r.Inner, width)
	}
	if r.Scroll > r.Inner {
		t.Errorf("the page is %v wide in a window of %v: it has to be pushed about", r.Scroll, r.Inner)
	}
	if !r.Styled {
		t.Error("the page's style is not in use")
	}
	if strings.TrimSpace(r.Text) == "" {
		t.Error("there is nothing to see")
	}
	for what, found := range map[string][]string{
		"reaches beyond": r.Beyond, "is too small": r.Small, "is too pale": r.Pale, "lies upon each other": r.Covered,
		"is what the browser complains of": r.Problems,
	} {
		if len(found) > 0 {
			t.Errorf("%d: %s: %s", len(found), what, strings.Join(found[:min(len(found), 5)], "; "))
		}
	}
}

// A page that needs nothing else is a page without another request.
func TestBrowserAsksForNothingElse(t *testing.T) {
	server := httptest.NewServer(of(filled(time.Now())))
	defer server.Close()
	browser := startBrowser(t)
	browser.open(t, server.URL, 1280, 900, false, false)
	var got rendered
	browser.evaluate(t, look, &got)
	for _, url := range browser.requested() {
		if url != server.URL+"/" {
			t.Errorf("the page made the browser ask for %s", url)
		}
	}
	if n := len(browser.requested()); n != 1 {
		t.Errorf("%d requests, want 1: %v", n, browser.requested())
	}
}

func (b *browser) screenshot(t *testing.T) []byte {
	t.Helper()
	var shot struct{ Data string }
	b.call(t, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &shot)
	image, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil || len(image) < 1000 {
		t.Fatalf("a screenshot of %d bytes, %v", len(image), err)
	}
	return image
}
