// Package tree works with directories beneath an open one, on file systems
// whose content belongs to containers and is hostile.
//
// Every step is taken from a directory's descriptor by openat2(2): a path
// cannot climb out, and a symbolic link, a magic link or another mounted file
// system on the way is an error, whoever put it there. Before a name is looked
// up its directory's attributes are fetched from the server, because the
// kernel's NFS client would otherwise trust names it has seen for up to a minute
// (acdirmax) although another host has changed them.
//
// The package does not know what the directories mean, does not retry and does
// not time out: on a dead file system a call blocks in the kernel. Callers run
// it where it may be left behind.
//
//	root, err := tree.Open("/srv/volumes")
//	dir, made, err := root.Make("a/b", 0o755)
//
// A [Dir] is safe for concurrent use until it is closed; its owner closes it.
package tree
