// Package driver holds the volumes: their records on the file system, what this
// host knows of them, their mounts and who uses them.
//
// A volume is a sub-directory of a file system. The truth about it is its record
// in the file system's catalogue (package catalog); a durable copy on this host lets
// Get and List answer at once, also when the file system is dead. Mount reads the
// record afresh. Each file system is reached through a root mount per transport
// (package mount), of which volumes are clones.
//
// The package knows nothing of Docker's protocol, and it retries nothing on its
// own: each call either works, or fails with an [Error] that says what to do,
// and may be repeated.
//
// # Concurrency
//
// All methods of [Driver] are safe for concurrent use. Calls for one volume take
// turns; a call never waits for another volume's. No lock is held over a mount,
// a network call or a disk of the file system. What touches a file system runs
// on a goroutine that can be left behind, a bounded number for each transport,
// so a dead one delays nobody else.
//
//	d, err := driver.New(driver.Options{Data: "/mnt/efs"}, log)
//	defer d.Close()
//	err = d.Create(ctx, "data", map[string]string{"uid": "999"})
package driver
