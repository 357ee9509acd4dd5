package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/plugin"
)

const (
	defaultSocket = "/run/docker/plugins/efs.sock"
	defaultData   = "/mnt/efs"
	controlSocket = "control.sock"
	// drainLimit is how long calls under way may take after SIGTERM; dockerd
	// kills a plugin 10 s after it.
	drainLimit = 8 * time.Second
	// gcPercent trades a little processor time, of which the plugin needs next to
	// none, for memory, which every host pays.
	gcPercent = 50
)

func serveCommand(status *int) *cobra.Command {
	var socket, data string
	command := &cobra.Command{
		Use:   "serve",
		Short: "Serve Docker's volume plugin protocol",
		Long: `Serve Docker's volume plugin protocol on a Unix socket until SIGTERM.

Everything but the two paths is set in the environment, by the names of
docker plugin set: EFS_FILESYSTEM, EFS_ROOT, EFS_TARGETS, EFS_ZONE, EFS_VIA,
EFS_ACCESS, EFS_REMOVE, EFS_LOG_LEVEL, AWS_REGION. An empty value means the
default. The process needs CAP_SYS_ADMIN. It unmounts nothing when it ends.`,
		Example: `  EFS_FILESYSTEM=nfs://10.0.0.5/export docker-volume-efs serve
  docker volume create -d efs data`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			*status = exitTrouble
			return serve(socket, data)
		},
	}
	command.Flags().StringVar(&socket, "socket", defaultSocket, "Unix socket on which Docker asks")
	command.Flags().StringVar(&data, "data", defaultData, "directory for mountpoints and state")
	return command
}

func serve(socket, data string) error {
	debug.SetGCPercent(gcPercent)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// Nobody may read the log any more; that is no reason to end.
	signal.Ignore(syscall.SIGPIPE)
	logger, lines := plugin.NewLog(os.Stdout, os.Stderr)
	go lines.Run()
	defer lines.Close()
	// net/http writes its complaints there; on standard error they could block.
	complaints := logger.WriterLevel(logrus.WarnLevel)
	defer complaints.Close()
	log.SetOutput(complaints)
	log.SetFlags(0)
	// First of all the socket: Docker switches a plugin off that does not listen
	// within seconds. Calls wait in its queue until the state is read.
	listener, err := plugin.Listen(socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	settings := plugin.ReadSettings(os.Getenv)
	logger.SetLevel(settings.LogLevel)
	if settings.Driver.Misconfigured != nil {
		logger.Error(settings.Driver.Misconfigured)
	}
	settings.Driver.Data = data
	volumes, err := driver.New(settings.Driver, logger)
	if err != nil {
		logger.Error(err)
		return err
	}
	volumes.Start()
	// Reading the state of many volumes takes memory that is never needed again.
	go debug.FreeOSMemory()
	logger.Infof("docker-volume-efs %s serves %s, file system %s", version, socket, settings.Driver.FileSystem)
	return errors.Join(serveUntil(ctx, listener, data, volumes, logger), volumes.Close())
}

// serveUntil serves both sockets until the context ends, then lets calls under way
// finish.
func serveUntil(ctx context.Context, listener net.Listener, data string, volumes *driver.Driver, logger *logrus.Logger) error {
	server := plugin.NewServer(volumes, logger)
	listeners := []net.Listener{listener}
	ended := make(chan error, 2)
	var serving sync.WaitGroup
	serving.Go(func() { ended <- server.Serve(listener) })
	if control, err := plugin.Listen(filepath.Join(data, controlSocket)); err != nil {
		// Volumes matter more than the status command.
		logger.Errorf("no status on this host: %v", err)
	} else {
		listeners = append(listeners, control)
		serving.Go(func() { ended <- plugin.ServeControl(control, version, volumes.Overview) })
	}
	var failed error
	select {
	case <-ctx.Done():
	case err := <-ended:
		failed = fmt.Errorf("serve: %w", err)
	}
	logger.Info("ending; mounts in use stay")
	for _, l := range listeners {
		failed = errors.Join(failed, l.Close())
	}
	serving.Wait()
	drain, cancel := context.WithTimeout(context.Background(), drainLimit)
	defer cancel()
	server.Wait(drain)
	return failed
}
