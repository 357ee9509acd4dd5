package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/gateway"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
)

// printGateway shows a gateway's status to people.
func printGateway(s gateway.Status, out io.Writer) error {
	g := s.Gateway
	fmt.Fprintf(out, "docker-volume-efs %s, gateway since %s, listening on %s\n", s.Version, timeText(g.Since), addressesText(g))
	fmt.Fprintf(out, "clients: %d of %d connected, %d waiting; %d refused, %d over a limit, %d moved\n",
		g.Relay.Conns, g.Relay.Limit, g.Relay.Held, g.Relay.NotAdmitted, g.Relay.Shed, g.Relay.Moved)
	if c := g.Certificate; c != nil {
		fmt.Fprintf(out, "certificate: %s (%s), valid until %s\n", c.File, c.Subject, timeText(c.NotAfter))
	}
	traffic := make(map[proxy.Target]relay.TargetStats)
	for _, t := range g.Relay.Targets {
		t.Target.Backup = false
		traffic[t.Target] = t
	}
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "\nTARGET\tSTATE\tSINCE\tROUND TRIP\tCLIENTS\tBYTES TO\tBYTES FROM\tWHY")
	for _, t := range g.Targets.Targets {
		key := t.Target
		key.Backup = false
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", t.Target, stateText(t), timeText(t.Since), t.RTT.Round(time.Microsecond),
			traffic[key].Conns, traffic[key].Out, traffic[key].In, orDash(t.Why))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, trouble := range g.Trouble {
		fmt.Fprintln(out, "trouble:", trouble)
	}
	return nil
}

func stateText(t proxy.TargetState) string {
	words := []string{string(t.Health)}
	for _, more := range []struct {
		word string
		is   bool
	}{{"in use", t.InUse}, {"drained", t.Drained}, {"backup", t.Backup}} {
		if more.is {
			words = append(words, more.word)
		}
	}
	return strings.Join(words, ", ")
}

func addressesText(g gateway.Overview) string {
	var texts []string
	for _, address := range g.Listen {
		texts = append(texts, address.String())
	}
	for _, address := range g.PeerListen {
		texts = append(texts, address.String()+" (peers)")
	}
	return orDash(strings.Join(texts, ", "))
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
