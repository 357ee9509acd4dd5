// Package status has the words for how file systems, mount targets, relays and mounts
// are at one moment. It is what the driver and the gateway tell, and what status
// commands, the status page and monitoring show; it shows nothing itself, and asks
// nobody.
//
//	for _, trouble := range snapshot.Troubles() {
//		fmt.Println(trouble)
//	}
//
// A Snapshot is a value. Whoever made it leaves it alone afterwards.
package status
