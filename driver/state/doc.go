// Package state keeps small tables on the host's disk that outlive a crash of
// the plugin and, where asked, of the host.
//
// A [Table] is a journal: a line for each change, each with a checksum, read
// back at start and rewritten when most of it is history. A line cut short by a
// crash is the change that did not happen. Anything else that cannot be read
// is set aside in a file of its own and reported; what can be read is kept. A
// database library would be more than is needed: the tables are small, live in
// memory anyway, and a damaged file must neither stop the plugin nor lose its
// good lines.
//
// It is not shared between processes, and it knows nothing of what it keeps.
//
//	table, report, err := state.Open[Record](filepath.Join(dir, "volumes"), state.Durable)
//	err = table.Put("data", record)
//
// A Table is safe for concurrent use. Its owner closes it.
package state
