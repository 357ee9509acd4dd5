package main

import (
	"fmt"
	"strings"
)

func (b *bench) deletion() error { return b.measure(&b.results.deletion, "deleting", "") }

func (r results) deletionTable(p *strings.Builder) {
	const alone = "nothing else"
	fmt.Fprint(p, "## A volume beside one that is deleted\n\n4 KiB written and synced, one at a time, milliseconds. The tree has 6,000 files and is the same for both.\n\n"+
		"| meanwhile | median | p99 | median against alone |\n|---|---|---|---|\n")
	for _, row := range []struct{ state, what string }{
		{alone, alone}, {"plugin", "the plugin deletes a volume"}, {"rm -r", "`rm -r` by a mount of its own"},
	} {
		s := r.deletion[row.state]
		fmt.Fprintf(p, "| %s | %s | %.2f |\n", row.what, cells(s), s.Median/r.deletion[alone].Median)
	}
	fmt.Fprintln(p)
}
