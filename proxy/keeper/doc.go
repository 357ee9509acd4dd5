// Package keeper keeps listening sockets open while the process that serves them
// crashes and starts again: a small parent holds them, its only child, the worker,
// does all the work. Connections that wait in a listener's queue wait for the next
// worker; connections made in between wait with them; none is refused. Connections
// that a worker had accepted end with it.
//
// The parent runs the same program. It never accepts or reads from a listener; it
// talks to its worker alone, over a pair of Unix sockets, and believes nothing that
// comes from there. It starts a crashed worker again at once, later if it keeps
// crashing. It does not judge whether a worker that runs is well, and it does not
// kill one that is slow to end: whoever started the parent does that. One that was killed
// and cannot end, because the kernel waits for a connection that it served itself, gets
// a successor beside it, which is told so ([Kept.Beside]). When the parent dies, however
// it dies, the kernel kills the worker.
//
//	if !keeper.IsWorker() {
//		exit, err := keeper.Run(ctx, keeper.Options{Log: log}) // until the worker ends for good
//	}
//	kept, err := keeper.Inherited()
//	listener := kept.Listener("nfs")
//	if listener == nil {
//		listener, err = net.Listen("tcp", "127.0.0.1:0")
//		err = kept.Keep("nfs", listener)
//	}
//
// [Run] takes over the whole process. The methods of [Kept] are safe for concurrent
// use.
package keeper
