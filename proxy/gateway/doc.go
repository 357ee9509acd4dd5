// Package gateway gives machines that have no mount target of their own a way to an NFS
// file system: it listens, lets in whom it may, and passes each connection on to the mount
// target in use, or to a second gateway nearer to them.
//
// Two gateways are a pair: each NFS connection between them is one connection of mutual
// TLS 1.3, whoever has no certificate of the right authority gets nothing, and certificates
// are read again when their files change, without a word to live connections.
//
// It listens on nothing by itself and closes no listener: whoever starts it has them,
// perhaps from systemd ([Activated]) or from a parent that survives it (package keeper). It
// knows nothing of NFS beyond NULL, which is how it asks whether a target, or all of the
// way through a peer, works. It keeps nothing on disk. All methods are safe for
// concurrent use.
//
//	g, err := gateway.New(gateway.Options{Targets: targets, Allow: networks, Log: log})
//	err = g.Serve(ctx, gateway.Listeners{Plain: listeners}) // until ctx ends, and all clients are gone
package gateway
