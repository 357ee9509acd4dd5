package peer

// The inside, for tests.
var (
	Judge = judge
	Parse = parse
)
