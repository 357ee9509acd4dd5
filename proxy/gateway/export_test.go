package gateway

import "time"

// LookEvery makes it look at its files more often than people replace them.
func (i *Identity) LookEvery(pause time.Duration) { i.every = pause }
