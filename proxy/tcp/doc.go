// Package tcp makes and reads TCP connections to mount targets and of their clients.
//
// A connection that only waits must notice that its peer is gone within seconds,
// and one that sends must not retransmit for the kernel's quarter of an hour:
// [Dial] and [Accepted] set keep-alive and TCP_USER_TIMEOUT accordingly. Buffer sizes
// are left to the kernel, which tunes them only as long as nobody sets them.
//
// The package does not choose addresses, does not retry and keeps no state; it
// is safe for concurrent use.
//
//	conn, err := tcp.Dial(ctx, netip.MustParseAddrPort("10.0.1.5:2049"))
package tcp
