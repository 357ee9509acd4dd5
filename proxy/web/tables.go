package web

import (
	"fmt"
	"strings"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

func (p *page) targets(targets []targetView) {
	if len(targets) == 0 {
		return
	}
	p.table("targets", "Mount targets", "Zone", "Address", "State", "Since", "#Answer in", "#Failed checks", "#Connections", "#Sent", "#Received")
	for _, t := range targets {
		p.target(t)
	}
	p.endTable()
}

func (p *page) target(t targetView) {
	row, zone, health := markup(`<tr>`), t.Zone, string(t.Health)
	if t.InUse {
		row = `<tr class="used">`
	}
	if zone == "" {
		zone = "–"
	}
	p.put(row)
	p.put(`<td data-label="Zone"><b>%s</b>`, zone)
	p.mark(t.Home, "home")
	p.mark(t.Backup, "backup")
	p.put(`</td>`)
	p.cell("long addr", "Address", t.Addr.String())
	p.put(`<td data-label="State">`)
	if t.Gone {
		p.put(`<span class="state">gone</span>`)
	} else {
		p.put(`<span class="state %s">%s</span>`, health, health)
	}
	p.mark(t.InUse, "in use")
	p.mark(t.Drained, "drained")
	p.putIf(` <span class="why">%s</span>`, t.Why)
	p.put(`</td>`)
	p.timeCell("Since", t.Since)
	p.cell("number", "Answer in", rttText(t.RTT))
	if t.Gone {
		p.cell("number", "Failed checks", "")
	} else {
		p.cell("number", "Failed checks", fmt.Sprintf("%d of %d", t.Failures, t.Checks))
	}
	if t.Traffic == nil {
		for _, label := range []string{"Connections", "Sent", "Received"} {
			p.cell("number", label, "")
		}
	} else {
		p.cell("number", "Connections", fmt.Sprint(t.Traffic.Conns))
		p.put(`<td class="number" data-label="Sent">%s`, bytesText(t.Traffic.Out))
		if n := t.Traffic.Retransmits; n > 0 {
			p.put(` <span class="why">%s segments again</span>`, fmt.Sprint(n))
		}
		p.put(`</td>`)
		p.cell("number", "Received", bytesText(t.Traffic.In))
	}
	p.put("</tr>\n")
}

func (p *page) transports(transports []transportView) {
	if len(transports) == 0 {
		return
	}
	p.table("transports", "Paths", "Path", "Listens on", "Goes to", "#Connections", "#Waiting", "#Accepted", "#Refused", "#Moved", "#Lost")
	for _, t := range transports {
		listen := ""
		if t.Listen.IsValid() {
			listen = t.Listen.String()
		}
		p.put(`<tr><td data-label="Path"><b>%s</b>`, wayOf(t.Transport))
		p.putIf(` <span class="why">%s</span>`, t.Why)
		p.put(`</td>`)
		p.cell("long", "Listens on", listen)
		p.cell("long", "Goes to", place(t.Target))
		if s := t.Traffic; s != nil {
			p.cell("number", "Connections", fmt.Sprintf("%d of %d", s.Conns, s.Limit))
			p.cell("number", "Waiting", fmt.Sprint(s.Held))
			p.cell("number", "Accepted", fmt.Sprint(s.Accepted))
			p.cell("number", "Refused", fmt.Sprint(t.Refused))
			p.cell("number", "Moved", fmt.Sprint(s.Moved))
			p.cell("number", "Lost", fmt.Sprint(s.Lost))
		} else {
			p.put(`<td class="number" data-label="Traffic" colspan="6">counted by the kernel</td>`)
		}
		p.put("</tr>\n")
	}
	p.endTable()
}

func (p *page) moves(causes []causeView, moves []proxy.Move) {
	if len(moves) == 0 {
		return
	}
	caption, between := "Moves", ": "
	for _, one := range causes {
		caption += fmt.Sprintf("%s%d %s", between, one.Count, one.Cause)
		between = ", "
	}
	p.table("moves", caption, "When", "From", "To", "Cause")
	for _, m := range moves {
		p.put(`<tr>`)
		p.timeCell("When", m.At)
		p.cell("long", "From", place(m.From))
		p.cell("long", "To", place(m.To))
		p.put(`<td data-label="Cause"><b>%s</b>`, string(m.Cause))
		p.putIf(` <span class="why">%s</span>`, m.Why)
		p.put("</td></tr>\n")
	}
	p.endTable()
}

func (p *page) volumes(s status.Snapshot) {
	p.put("<section class=\"volumes\">\n<h2>Volumes</h2>\n<p class=\"facts\">%s mounted on this host, %s known</p>\n",
		fmt.Sprint(len(s.Mounted)), fmt.Sprint(s.Known))
	if len(s.Mounted) > 0 {
		p.table("volumes", "", "Volume", "File system", "Mounted", "#Uses", "Also used on", "State")
		for _, v := range s.Mounted {
			p.put(`<tr><td data-label="Volume"><b>%s</b></td>`, v.Name)
			p.cell("long", "File system", v.FileSystem)
			p.timeCell("Mounted", v.Since)
			p.cell("number", "Uses", fmt.Sprint(v.Uses()))
			p.cell("long", "Also used on", strings.Join(v.Elsewhere, ", "))
			p.put(`<td data-label="State">`)
			if len(v.Trouble) == 0 {
				p.put(`<span class="state up">ok</span>`)
			} else {
				p.put(`<span class="state down">trouble</span>`)
			}
			for _, trouble := range v.Trouble {
				p.put(` <span class="why">%s</span>`, trouble)
			}
			p.put("</td></tr>\n")
		}
		p.endTable()
	}
	if len(s.Elsewhere) > 0 {
		p.table("volumes", "Used on other hosts only", "Volume", "File system", "Used by")
		for _, v := range s.Elsewhere {
			p.put(`<tr><td data-label="Volume"><b>%s</b></td>`, v.Name)
			p.cell("long", "File system", v.FileSystem)
			p.cell("long", "Used by", strings.Join(v.By, ", "))
			p.put("</tr>\n")
		}
		p.endTable()
	}
	p.put("</section>\n")
}
