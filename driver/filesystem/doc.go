// Package filesystem names the file systems on which volumes live.
//
// A [Spec] is parsed from the words an operator writes (the setting
// EFS_FILESYSTEM, the volume option "filesystem") and says what to reach, not
// how: it does no look-up of names, opens nothing and knows no transport. Its
// text form is canonical, so that two spellings of one file system are equal.
//
//	spec, err := filesystem.Parse("nfs://10.0.0.5/export")
//
// All functions are safe for concurrent use.
package filesystem
