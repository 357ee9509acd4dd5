// Package batch has TLS read and write its TCP connection in few, large pieces.
//
// TLS moves bytes in records of 16 KiB, and crypto/tls makes a system call for each record or
// two. With an NFS client's megabytes that costs more than the cipher. A [Conn] under TLS
// reads what the kernel has at once, and gathers what is written between [Conn.Cork] and
// [Conn.Flush].
//
// It takes memory from a pool only while bytes are in it: a connection that waits costs
// nothing. It knows nothing of TLS, and is no use without a layer that has small pieces.
//
// As with any net.Conn one goroutine may read while others write; Eager belongs to the
// one that reads, Cork and Flush to one that writes.
//
//	under := batch.New(conn)
//	secured := tls.Client(under, config)
//	under.Cork()
//	_, err := secured.Write(megabyte)
//	err = errors.Join(err, under.Flush())
package batch
