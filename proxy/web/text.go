package web

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/terminal"
)

// WriteText writes what the status page shows, for a terminal.
func WriteText(w io.Writer, s status.Snapshot) error {
	var out bytes.Buffer
	t := text{out: &out, now: time.Now()}
	t.head(s)
	for _, f := range s.FileSystems {
		t.fileSystem(viewOf(f))
	}
	t.volumes(s.Mounted)
	t.elsewhere(s.Elsewhere)
	_, err := w.Write(out.Bytes())
	return err
}

// text is a text on its way.
type text struct {
	out *bytes.Buffer
	now time.Time
}

func (t *text) line(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", plainAll(args)...) }

// table writes rows under their titles; the last column may be of any width. A column
// that is empty in all rows is left out.
func (t *text) table(titles []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	shown := func(column int) bool {
		return slices.ContainsFunc(rows, func(row []string) bool { return row[column] != "" })
	}
	var aligned strings.Builder
	table := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{titles}, rows...) {
		var cells []string
		for i, cell := range row {
			if shown(i) {
				cells = append(cells, dashed(terminal.Plain(cell), i == len(row)-1))
			}
		}
		fmt.Fprintf(table, "  %s\n", strings.Join(cells, "\t"))
	}
	_ = table.Flush() // into memory
	for line := range strings.Lines(aligned.String()) {
		t.out.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

// dashed shows that a cell is empty; of the last one that is seen anyway.
func dashed(cell string, last bool) string {
	if cell == "" && !last {
		return "–"
	}
	return cell
}

func (t *text) ago(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return agoText(t.now.Sub(at))
}

func (t *text) head(s status.Snapshot) {
	head := "docker-volume-efs " + s.Version
	if s.Host != "" {
		head += " on " + s.Host
	}
	if !s.Since.IsZero() {
		head += ", serving since " + t.ago(s.Since)
	}
	t.line("%s", head)
	troubles := s.Troubles()
	if len(troubles) == 0 {
		t.line("all is well")
		return
	}
	t.line("%d in trouble:", len(troubles))
	for _, trouble := range troubles {
		t.line("  %s", trouble)
	}
}

func (t *text) fileSystem(f fileSystemView) {
	facts := "not connected yet"
	if f.Connected {
		facts = strings.TrimSpace("connected " + t.ago(f.Since))
	}
	if !f.Troubled.IsZero() {
		facts += ", trouble began " + t.ago(f.Troubled)
	}
	if f.Current.Addr.IsValid() {
		facts += ", in use " + place(f.Current)
	}
	if f.Home != "" {
		facts += ", home zone " + f.Home
	}
	if f.Source != "" {
		facts += ", mount targets from " + f.Source
	}
	if f.Default {
		facts += ", default of volumes"
	}
	t.line("\nFILE SYSTEM %s", f.FileSystem.FileSystem)
	t.line("  %s", strings.TrimSpace(facts))
	if n := f.Recoveries; n > 0 {
		t.line("  %s", recoveriesText(n))
	}
	t.targets(f.Rows)
	t.transports(f.Relays)
	t.moves(f.Recent)
}

func (t *text) targets(targets []targetView) {
	var rows [][]string
	for _, one := range targets {
		row := []string{one.Zone, one.Addr.String(), one.state(), t.ago(one.Since), "", "", "", "", "", one.Why}
		if one.RTT > 0 {
			row[4] = rttText(one.RTT)
		}
		if !one.Gone {
			row[5] = fmt.Sprintf("%d of %d", one.Failures, one.Checks)
		}
		if one.Traffic != nil {
			row[6], row[7], row[8] = fmt.Sprint(one.Traffic.Conns), bytesText(one.Traffic.Out), bytesText(one.Traffic.In)
		}
		rows = append(rows, row)
	}
	t.table([]string{"ZONE", "MOUNT TARGET", "STATE", "SINCE", "ANSWER IN", "FAILED CHECKS", "CONNECTIONS", "SENT", "RECEIVED", "WHY"}, rows)
}

// state is a mount target's state in words.
func (t targetView) state() string {
	words := []string{string(t.Health)}
	if t.Gone {
		words = []string{"gone"}
	}
	for _, word := range []struct {
		holds bool
		text  string
	}{{t.InUse, "in use"}, {t.Home, "home"}, {t.Backup, "backup"}, {t.Drained, "drained"}} {
		if word.holds {
			words = append(words, word.text)
		}
	}
	return strings.Join(words, ", ")
}

func (t *text) transports(transports []transportView) {
	var rows [][]string
	for _, one := range transports {
		row := []string{wayOf(one.Transport), "", place(one.Target), "", "", "", "", "", "", one.Why}
		if one.Listen.IsValid() {
			row[1] = one.Listen.String()
		}
		if s := one.Traffic; s != nil {
			row[3] = fmt.Sprintf("%d of %d", s.Conns, s.Limit)
			for i, n := range []uint64{uint64(s.Held), s.Accepted, one.Refused, s.Moved, s.Lost} {
				row[4+i] = fmt.Sprint(n)
			}
		}
		rows = append(rows, row)
	}
	t.table([]string{"PATH", "LISTENS ON", "GOES TO", "CONNECTIONS", "WAITING", "ACCEPTED", "REFUSED", "MOVED", "LOST", "WHY"}, rows)
}

func (t *text) moves(moves []proxy.Move) {
	var rows [][]string
	for _, m := range moves {
		rows = append(rows, []string{t.ago(m.At), place(m.From), place(m.To), string(m.Cause), m.Why})
	}
	t.table([]string{"MOVED", "FROM", "TO", "CAUSE", "WHY"}, rows)
}

func (t *text) volumes(volumes []status.Volume) {
	if len(volumes) == 0 {
		t.line("\nno volume is mounted")
		return
	}
	var rows [][]string
	for _, v := range volumes {
		state := "ok"
		if len(v.Trouble) > 0 {
			state = strings.Join(v.Trouble, "; ")
		}
		rows = append(rows, []string{v.Name, t.ago(v.Since), mountIDs(v.Mounts), strings.Join(v.Elsewhere, " "), v.FileSystem, state})
	}
	t.line("\nVOLUMES")
	t.table([]string{"VOLUME", "MOUNTED", "MOUNT IDS", "ALSO USED ON", "FILE SYSTEM", "STATE"}, rows)
}

func (t *text) elsewhere(volumes []status.Used) {
	if len(volumes) == 0 {
		return
	}
	var rows [][]string
	for _, v := range volumes {
		rows = append(rows, []string{v.Name, v.FileSystem, strings.Join(v.By, " ")})
	}
	t.line("\nUSED ON OTHER HOSTS ONLY")
	t.table([]string{"VOLUME", "FILE SYSTEM", "USED BY"}, rows)
}

// mountIDs shows who holds a mount, by the first characters of Docker's IDs.
func mountIDs(counts map[string]int) string {
	const shown = 12
	var texts []string
	for _, id := range slices.Sorted(maps.Keys(counts)) {
		texts = append(texts, fmt.Sprintf("%.*s×%d", shown, id, counts[id]))
	}
	return strings.Join(texts, " ")
}

// place is a mount target in short, as the page has it.
func place(t proxy.Target) string {
	switch {
	case t.Zone != "":
		return t.Zone
	case t.Addr.IsValid():
		return t.Addr.String()
	}
	return ""
}

// plainAll takes out what a terminal would obey: names come from elsewhere.
func plainAll(args []any) []any {
	for i, arg := range args {
		if text, ok := arg.(string); ok {
			args[i] = terminal.Plain(text)
		}
	}
	return args
}
