// Command docker-volume-efs gives Docker containers volumes on Amazon EFS and
// other NFSv4.1 file systems. As a managed plugin it runs "serve"; the other commands are for
// people at a terminal. docker-volume-efs --help tells more.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
)

// version is set by the build (-ldflags -X main.version=…).
var version = "dev"

// Exit statuses: of a command that found trouble, and of one that was used wrong.
const (
	exitTrouble = 1
	exitUsage   = 2
)

// exitStatus is how a worker ended; 0 is good.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	if !sunrpc.IsMover() {
		os.Exit(run())
	}
	if err := sunrpc.RunMover(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitTrouble)
	}
}

func run() int {
	status := exitUsage
	root := &cobra.Command{
		Use:   "docker-volume-efs",
		Short: "Docker volumes on Amazon EFS and other NFSv4.1 file systems",
		Long: `docker-volume-efs gives Docker containers volumes on Amazon EFS and other
NFSv4.1 file systems. A volume is a directory of the file system; it is found by
its name on every host, with its data.

Usually it runs as a managed Docker plugin and nobody calls it by hand:

  docker plugin install …/efs EFS_FILESYSTEM=fs-0123456789abcdef0
  docker volume create -d efs pgdata
  docker run -v pgdata:/var/lib/postgresql/data -e POSTGRES_PASSWORD=secret postgres:17`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(&status), relayCommand(&status), statusCommand(&status), doctorCommand(&status), volumesCommand(&status), trashCommand(&status), drainCommand(&status), preemptCommand(&status))
	if err := root.Execute(); err != nil {
		if exit, ok := errors.AsType[exitStatus](err); ok {
			return int(exit) // whoever ended with it has said why
		}
		fmt.Fprintln(os.Stderr, "docker-volume-efs:", err)
		return status
	}
	return 0
}
