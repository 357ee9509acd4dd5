package web_test

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// outline is a page's structure: an element a line, with its class, and the text.
func outline(t *testing.T, page string) string {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(page))
	decoder.Strict, decoder.AutoClose, decoder.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	var out strings.Builder
	depth, style := 0, false
	line := func(text string) { out.WriteString(strings.Repeat("  ", depth) + text + "\n") }
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			if depth != 0 {
				t.Errorf("%d elements are not closed", depth)
			}
			return out.String()
		}
		if err != nil {
			t.Fatalf("%v in the page:\n%s", err, page)
		}
		switch token := token.(type) {
		case xml.StartElement:
			var text strings.Builder
			text.WriteString(token.Name.Local)
			for _, name := range []string{"class", "data-label", "href", "datetime"} {
				if i := slices.IndexFunc(token.Attr, func(a xml.Attr) bool { return a.Name.Local == name }); i >= 0 {
					text.WriteString(" " + name + "=" + strings.Join(strings.Fields(token.Attr[i].Value), " "))
				}
			}
			line(text.String())
			depth++
			style = token.Name.Local == "style"
		case xml.EndElement:
			depth--
			style = false
		case xml.CharData:
			if text := strings.Join(strings.Fields(string(token)), " "); text != "" && !style {
				line("| " + text)
			}
		}
	}
}

func TestThePageShowsEverything(t *testing.T) {
	for name, take := range map[string]func(time.Time) status.Snapshot{
		"filled": filled,
		"empty":  func(time.Time) status.Snapshot { return status.Snapshot{Version: "dev"} },
	} {
		t.Run(name, func(t *testing.T) {
			var got string
			synctest.Test(t, func(t *testing.T) { // the clock stands still
				got = outline(t, ask(t, of(take(time.Now())), http.MethodGet, "/").Body.String())
			})
			golden(t, name+".golden", got)
		})
	}
}

// hostile would be markup, style, an address and a second line, wherever it is put.
const hostile = `"'><script>alert(1)</script><b onload=x>{{.}}*/</style><!--` + "\r\nx: y\x00\xff\u202e"

func hostileSnapshot() status.Snapshot {
	where := proxy.Target{Zone: hostile, Addr: netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:6666]:2049")}
	return status.Snapshot{
		Version: hostile, Host: hostile, Trouble: []string{hostile},
		FileSystems: []status.FileSystem{{
			GroupState: proxy.GroupState{
				FileSystem: hostile, Home: hostile, Current: where,
				Targets: []proxy.TargetState{{Target: where, InUse: true, Health: hostile, Why: hostile}},
				Moves:   map[proxy.Cause]uint64{hostile: 1, proxy.CauseCheck: 1},
				Recent:  []proxy.Move{{From: where, To: where, Cause: hostile, Why: hostile}},
			},
			Trouble: hostile, Source: hostile,
			Transports: []status.Transport{
				{Path: hostile, Protection: hostile, Why: hostile, Target: where, Traffic: &relay.Stats{Targets: []relay.TargetStats{{Target: where, Out: 1}, {Target: where, Out: 2}}}},
				{Path: hostile, Why: hostile, Traffic: &relay.Stats{Targets: []relay.TargetStats{{Target: proxy.Target{Zone: hostile + "2"}}}}},
			},
		}, {GroupState: proxy.GroupState{FileSystem: hostile}}},
		Mounted:   []status.Volume{{Name: hostile, FileSystem: hostile, Trouble: []string{hostile}}, {Name: hostile, FileSystem: hostile}},
		Elsewhere: []status.Used{{Name: hostile, FileSystem: hostile, By: []string{hostile}}},
	}
}

func TestNamesAreNeverMarkup(t *testing.T) {
	page := ask(t, of(hostileSnapshot()), http.MethodGet, "/").Body.String()
	for _, never := range []string{"<script", "<b onload", "<!--", "\x00"} {
		if strings.Contains(page, never) {
			t.Errorf("the page has %q in it", never)
		}
	}
	if n := strings.Count(page, "</style>"); n != 1 {
		t.Errorf("the page ends its style %d times", n)
	}
	if n := strings.Count(page, "&lt;script&gt;"); n < 20 {
		t.Errorf("the page shows %d of the names", n)
	}
	// What is left is the structure of the page, and nothing that a name brought.
	for line := range strings.Lines(outline(t, strings.ToValidUTF8(page, "?"))) {
		element, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !slices.Contains(strings.Fields("html head meta title style body header main section footer h1 h2 p b ul li a span table caption thead tbody tr th td time |"), element) {
			t.Errorf("the page has an element of a name's making: %q", line)
		}
	}
}

func TestThePageNeedsNothingElse(t *testing.T) {
	page := ask(t, of(filled(time.Now())), http.MethodGet, "/").Body.String()
	for _, never := range []string{"<script", "<img", "<link", "<iframe", "@import", "url(", "style=", "http:", "https:"} {
		if strings.Contains(page, never) {
			t.Errorf("the page has %q in it", never)
		}
	}
}
