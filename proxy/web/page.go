package web

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page's style
	"encoding/base64"
	"fmt"
	"html"
	"strings"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/terminal"
)

//go:embed style.css
var styleText string

// styleHash is the style as a Content-Security-Policy names it.
func styleHash() string {
	sum := sha256.Sum256([]byte(styleText))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// page is an HTML page on its way. Package html/template would do, but it keeps the linker
// from leaving out what nobody calls: 2.5 MB of the program, 4 MB of two processes' memory.
type page struct {
	out bytes.Buffer
	now time.Time
}

// markup is a constant of this file. Having a type of its own keeps what comes from
// elsewhere from being taken for one.
type markup string

// put writes markup with texts in it, each escaped for where it may stand: between
// tags, or in an attribute in double quotes.
func (p *page) put(m markup, texts ...string) {
	escaped := make([]any, len(texts))
	for i, text := range texts {
		escaped[i] = html.EscapeString(terminal.Plain(text))
	}
	fmt.Fprintf(&p.out, string(m), escaped...)
}

// putIf is put if the text is not empty.
func (p *page) putIf(m markup, text string) {
	if text != "" {
		p.put(m, text)
	}
}

// mark is a word about a thing, if it holds.
func (p *page) mark(holds bool, word string) {
	if holds {
		p.put(` <span class="mark">%s</span>`, word)
	}
}

func (p *page) time(t time.Time) {
	if t.IsZero() {
		p.put("–")
		return
	}
	p.put(`<time datetime="%s" title="%s UTC">%s</time>`, attributeText(t), stampText(t), agoText(p.now.Sub(t)))
}

// cell is a table's cell; its label is shown where a row is a card.
func (p *page) cell(class, label, text string) {
	p.put(`<td`)
	p.putIf(` class="%s"`, class)
	if text == "" {
		text = "–"
	}
	p.put(` data-label="%s">%s</td>`, label, text)
}

func (p *page) timeCell(label string, t time.Time) {
	p.put(`<td data-label="%s">`, label)
	p.time(t)
	p.put(`</td>`)
}

// table begins a table and its body; a title that begins with # is one of numbers.
func (p *page) table(class, caption string, titles ...string) {
	p.put(`<table class="%s">`, class)
	p.putIf(`<caption>%s</caption>`, caption)
	p.put(`<thead><tr>`)
	for _, title := range titles {
		if number, ok := strings.CutPrefix(title, "#"); ok {
			p.put(`<th class="number">%s</th>`, number)
		} else {
			p.put(`<th>%s</th>`, title)
		}
	}
	p.put("</tr></thead>\n<tbody>\n")
}

func (p *page) endTable() { p.put("</tbody></table>\n") }

// writePage makes the status page of a snapshot.
func writePage(s status.Snapshot) []byte {
	p := &page{now: time.Now()}
	wrong := s.Troubles()
	p.head(s, len(wrong))
	p.banner(wrong)
	for _, f := range s.FileSystems {
		p.fileSystem(viewOf(f))
	}
	if len(s.FileSystems) == 0 {
		p.put("<section class=\"filesystem\"><p>No file system is in use.</p></section>\n")
	}
	if s.Known > 0 || len(s.Mounted) > 0 || len(s.Elsewhere) > 0 {
		p.volumes(s)
	}
	p.put(`</main>
<footer><p><a href="status.json">status.json</a> · <a href="metrics">metrics</a> · <a href="healthz">healthz</a></p></footer>
</body>
</html>
`)
	return p.out.Bytes()
}

func (p *page) head(s status.Snapshot, wrong int) {
	const program = "docker-volume-efs"
	name, title := s.Host, s.Host+" · "+program
	if s.Host == "" {
		name, title = program, program
	}
	if wrong > 0 {
		title = fmt.Sprintf("(%d) %s", wrong, title)
	}
	p.put(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<meta http-equiv="refresh" content="10">
<title>%s</title>
`, title)
	p.out.WriteString("<style>" + styleText + "</style>\n")
	p.put(`</head>
<body>
<header>
<h1>%s</h1>
<p class="note">docker-volume-efs %s`, name, s.Version)
	if !s.Since.IsZero() {
		p.put(" · serving since ")
		p.time(s.Since)
	}
	p.put(" · as of %s UTC, every 10 s</p>\n</header>\n<main>\n", stampText(p.now))
}

func (p *page) banner(wrong []string) {
	if len(wrong) == 0 {
		p.put("<section class=\"banner good\"><h2>All is well</h2></section>\n")
		return
	}
	p.put("<section class=\"banner bad\">\n<h2>%s in trouble</h2>\n<ul>\n", fmt.Sprint(len(wrong)))
	for _, one := range wrong {
		p.put("<li>%s</li>\n", one)
	}
	p.put("</ul>\n</section>\n")
}

func (p *page) fileSystem(f fileSystemView) {
	p.put("<section class=\"filesystem\">\n<h2>%s</h2>\n<p class=\"facts\">", f.FileSystem.FileSystem)
	if f.Connected {
		p.put("connected")
		if !f.Since.IsZero() {
			p.put(" ")
			p.time(f.Since)
		}
	} else {
		p.put("not connected yet")
	}
	if f.Current.Addr.IsValid() {
		p.put(" · in use <b>%s</b>", place(f.Current))
	}
	p.putIf(" · home zone <b>%s</b>", f.Home)
	p.putIf(" · mount targets from <b>%s</b>", f.Source)
	if f.Default {
		p.put(" · default of volumes")
	}
	p.put("</p>\n")
	if f.Trouble != "" {
		p.put(`<p class="trouble">%s`, f.Trouble)
		if !f.Troubled.IsZero() {
			p.put(` <span class="why">since `)
			p.time(f.Troubled)
			p.put(`</span>`)
		}
		p.put("</p>\n")
	}
	if n := f.Recoveries; n > 0 {
		p.put("<p class=\"trouble\">%s</p>\n", recoveriesText(n))
	}
	p.targets(f.Rows)
	p.transports(f.Relays)
	p.moves(f.Causes, f.Recent)
	p.put("</section>\n")
}
