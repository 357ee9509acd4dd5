package terminal

import (
	"strings"
	"unicode"
)

// Plain keeps a text from moving a terminal's cursor, and on one line: line breaks and tabs become
// spaces, what else cannot be printed "?".
func Plain(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return '?'
	}, text)
}

// Row is a line of a text/tabwriter table: its cells, made plain.
func Row(cells ...string) string {
	plain := make([]string, len(cells))
	for i, cell := range cells {
		plain[i] = Plain(cell)
	}
	return strings.Join(plain, "\t") + "\n"
}
