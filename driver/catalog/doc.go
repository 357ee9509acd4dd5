// Package catalog keeps the records of volumes on the file system itself, in
// the directory ".docker-volume-efs" under the file system's root, so that every
// host finds every volume.
//
//	.docker-volume-efs/          0700
//	    catalog.json             format version and the catalogue's own id
//	    volumes/NAME.json        a record for each volume
//	    paths/NAME@DIGESTS       marks volumes with a path other than /NAME
//	    hosts/ID.json            what each host uses; renewed while it lives
//	    trash/ID/                a removed volume: record.json, data/
//	    deleting/                what is being deleted in the background
//	    verdicts/ID              how the removal to trash/ID ends; for a day
//	    tmp/                     records on their way in
//
// A record is written under a temporary name, synced, and linked into place:
// of two hosts that create one name at the same moment one wins and both see
// the same record. It is replaced by a rename. So a reader sees a whole record or
// none, and a host that dies leaves at most a file in tmp/, which goes after a day.
//
// The package does not mount, does not time out and does not cache: on a dead
// file system a call blocks in the kernel (see package tree).
//
//	catalog, err := catalog.Open(root, "web1")
//	record, won, err := catalog.Add(record)
//
// A [Catalog] is safe for concurrent use. It does not own the root directory.
package catalog
