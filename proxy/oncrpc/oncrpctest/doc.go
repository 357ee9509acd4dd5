// Package oncrpctest makes messages as an NFSv4.1 client and its server send them, for tests,
// and reads them in the plainest way, to compare package oncrpc with: whole messages only, all
// fragments joined.
//
// It is no client: arguments that nobody here looks at are zero.
package oncrpctest
