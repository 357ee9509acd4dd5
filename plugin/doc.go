// Package plugin speaks Docker's volume plugin protocol on a Unix socket, reads the
// settings, and writes the log.
//
// It knows nothing of NFS or of file systems: what a volume is, is the driver's
// business. It adds what Docker's engine really needs of a plugin: every call has the
// request's context and a budget of 25 seconds; a request with an empty body (a
// retry after a broken connection) is never answered; a panic costs one call; each call
// leaves one log line; and writing the log never blocks.
//
// # Concurrency
//
// A [Server] answers calls in parallel. [Server.Serve] returns when the listener
// is closed; [Server.Wait] then waits for the calls under way.
//
//	listener, err := plugin.Listen("/run/docker/plugins/efs.sock")
//	server := plugin.NewServer(driver, log)
//	err = server.Serve(listener)
package plugin
