package lab

import (
	"context"
	"fmt"
	"os"
)

// Main runs a package's tests isolated, see [Isolate]; m is a *testing.M. It
// returns the code for os.Exit. prepare runs once, before, with the machine's
// network: it calls [Prepare] and builds what the tests bring into the hosts.
func Main(m interface{ Run() int }, prepare func(context.Context) error) int {
	code, done, err := Isolate(prepare)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test hosts:", err)
		return 1
	}
	if done {
		return code
	}
	return m.Run()
}
