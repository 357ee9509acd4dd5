// Package terminal makes texts fit to be shown on a terminal, or a page. Names and errors come from other machines,
// and may hold what a terminal obeys.
//
//	fmt.Println(terminal.Plain(name))
//	fmt.Fprint(table, terminal.Row("NAME", "ZONE")) // of a text/tabwriter
package terminal
