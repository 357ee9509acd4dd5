// Package lease is the protocol by which one host at a time has the right to a volume.
//
// A lease is one name on the file system ([Entry]), which only changes by an atomic step from one
// name to the next ([Store.Take]); of two hosts that take the same step one wins. Its holder gives
// signs of life, one for all its leases. Whoever else wants it takes it when neither the name nor
// the sign has changed for a whole [Term] by its own monotonic clock: no two clocks are compared.
//
// Two fences keep a holder that was taken for dead from writing. Its own gate ([Lease.Open]) shuts
// before the term is over, and opens again only after the holder took a step itself. What had
// passed the gate by then is refused by the server, because the taker has it forget the old holder's NFS
// client ([Store.Evict]) after its step, and before it uses the volume.
//
//	k := &lease.Keeper{Self: host, Store: store}
//	go k.Run(ctx)
//	l, err := k.Acquire(ctx, "pgdata")
//	… // bytes pass as long as l.Open()
//	err = k.Release(ctx, l)
package lease
