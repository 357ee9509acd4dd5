package relay

import "time"

// Look is one look of the watch, at a time that need not be now.
func (r *Relay) Look(now time.Time) { r.look(now) }

// Readable is here for a benchmark of what waiting costs.
var Readable = readable
