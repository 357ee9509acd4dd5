// Package web shows people and monitoring how file systems, mount targets and relays
// are: metrics for Prometheus, a health check, JSON, and a status page.
//
// It keeps nothing and decides nothing: each answer is made from a [status.Snapshot] that its
// user takes when asked. It only reads; there is nothing that a request could change.
// It has no access control and no TLS: who may connect is decided by the address that
// it listens on.
//
// The page is plain HTML with its style inside: no scripts, no outside assets. Names
// come from hosts, volumes and servers that are not trusted; each is escaped.
//
//	handler := web.Handler(gateway.Snapshot, log)
//	listener, err := net.Listen("tcp", "127.0.0.1:9199")
//	err = web.Serve(ctx, listener, handler)
//
// The handler is safe for concurrent use; the function that takes snapshots is never
// called twice at once.
package web
