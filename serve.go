package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/plugin"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/keeper"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/web"
)

const (
	defaultSocket = "/run/docker/plugins/efs.sock"
	defaultData   = "/mnt/efs"
	controlSocket = "control.sock"
	// drainLimit is how long calls under way may take after SIGTERM; dockerd
	// kills a plugin 10 s after it, and taking leave of file systems has to fit as well.
	drainLimit = 7 * time.Second
	// gcPercent trades a little processor time, of which the plugin needs next to
	// none, for memory, which every host pays.
	gcPercent = 50

	// workerName is what the worker is called in lists of processes.
	workerName = "docker-volume-efs-worker"
	// pluginSocket is what the parent keeps Docker's socket as.
	pluginSocket = "docker"
	// takeOverLimit is how long a killed parent's worker may take to end.
	takeOverLimit = 2 * time.Second
	takeOverPause = 20 * time.Millisecond
)

func serveCommand(status *int) *cobra.Command {
	var socket, data string
	command := &cobra.Command{
		Use:   "serve",
		Short: "Serve Docker's volume plugin protocol",
		Long: `Serve Docker's volume plugin protocol on a Unix socket until SIGTERM.

Everything but the two paths is set in the environment, by the names of
docker plugin set: EFS_FILESYSTEM, EFS_ROOT, EFS_TARGETS, EFS_ZONE, EFS_RETURN,
EFS_VIA, EFS_TLS, EFS_IAM, EFS_ACCESS_POINT, EFS_CA_FILE, EFS_ACCESS, EFS_REMOVE,
EFS_TRASH_KEEP, EFS_HTTP, EFS_LOG_LEVEL, and those of the AWS SDK (AWS_REGION, AWS_ACCESS_KEY_ID …). An empty value means the
default. The process needs CAP_SYS_ADMIN. It unmounts nothing when it ends.`,
		Example: `  EFS_FILESYSTEM=nfs://10.0.0.5/export docker-volume-efs serve
  docker volume create -d efs data`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			*status = exitTrouble
			if keeper.IsWorker() {
				return serve(socket, data)
			}
			exit, err := keepServing(socket, data)
			if err == nil && exit != 0 {
				err = exitStatus(exit)
			}
			return err
		},
	}
	command.Flags().StringVar(&socket, "socket", defaultSocket, "Unix socket on which Docker asks")
	command.Flags().StringVar(&data, "data", defaultData, "directory for mountpoints and state")
	return command
}

// keepServing is the parent's part: it listens, and keeps that and the relays' sockets
// open while workers come and go, so that neither Docker nor the kernel's NFS client
// sees a refused connection when one crashes.
func keepServing(socket, data string) (exit int, err error) {
	logger, lines := plugin.NewLog(os.Stdout, os.Stderr)
	go lines.Run()
	defer lines.Close()
	// First of all the socket: Docker switches a plugin off that does not listen
	// within seconds. Calls wait in its queue until the state is read.
	listener, err := listenAgain(socket)
	if err != nil {
		return 0, err
	}
	lock, err := driver.Lock(data)
	if err != nil {
		logger.Error(err)
		return 0, errors.Join(err, listener.Close())
	}
	defer lock.Close()
	return keeper.Run(context.Background(), keeper.Options{
		Worker:    append([]string{workerName}, os.Args[1:]...),
		Listeners: map[string]net.Listener{pluginSocket: listener},
		Log:       logger,
	})
}

// listenAgain waits a moment for the worker of a parent that was killed: the kernel
// ends it as well, but not in the same instant.
func listenAgain(socket string) (net.Listener, error) {
	for begun := time.Now(); ; {
		listener, err := plugin.Listen(socket)
		if err == nil || time.Since(begun) > takeOverLimit {
			return listener, err
		}
		timer := time.NewTimer(takeOverPause)
		<-timer.C
	}
}

// listenControl takes the socket of an earlier worker, which may not have ended, or makes it.
func listenControl(data string, kept driver.Listeners) (net.Listener, error) {
	if listener := kept.Listener(controlSocket); listener != nil {
		return listener, nil
	}
	listener, err := plugin.Listen(filepath.Join(data, controlSocket))
	if err != nil {
		return nil, err
	}
	if err := kept.Keep(controlSocket, listener); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// dropSockets has the parent end too: without sockets it does, and Docker shows that the plugin does
// not start. Where it keeps relays of containers that run it stays, and the next worker needs them all.
func dropSockets(kept interface {
	Names() []string
	Drop(name string) error
},
) error {
	names := kept.Names()
	if slices.ContainsFunc(names, driver.IsRelay) {
		return nil
	}
	var failures []error
	for _, name := range names {
		failures = append(failures, kept.Drop(name))
	}
	return errors.Join(failures...)
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
	kept, err := keeper.Inherited()
	if err != nil {
		return err
	}
	listener := kept.Listener(pluginSocket)
	if listener == nil {
		return errors.New("the parent process gave no socket")
	}
	defer listener.Close()
	settings := plugin.ReadSettings(os.Getenv)
	logger.SetLevel(settings.LogLevel)
	if settings.Driver.Misconfigured != nil {
		logger.Error(settings.Driver.Misconfigured)
	}
	settings.Driver.Data, settings.Driver.Locked, settings.Driver.Beside = data, true, kept.Beside()
	settings.Driver.Listeners = kept
	cloud.TrustAWS()
	settings.Driver.Cloud = cloud.New(cloud.Options{Region: settings.Driver.Region, Zone: settings.Driver.Zone, Log: logger})
	volumes, err := driver.New(settings.Driver, logger)
	if err != nil {
		logger.Error(err)
		return errors.Join(err, dropSockets(kept))
	}
	volumes.Start()
	// Reading the state of many volumes takes memory that is never needed again.
	go debug.FreeOSMemory()
	logger.Infof("docker-volume-efs %s serves %s, file system %s", version, socket, settings.Driver.FileSystem)
	begun := time.Now()
	snapshot := func() status.Snapshot {
		current := volumes.Overview()
		current.Version, current.Since = version, begun
		return current
	}
	pages := web.Handler(snapshot, logger)
	var showing sync.WaitGroup
	if settings.HTTP.IsValid() {
		showing.Go(func() { serveHTTP(ctx, settings.HTTP, kept, pages, logger) })
	}
	doctor := &plugin.Doctor{Driver: volumes, Data: data, Snapshot: snapshot, Log: lines, Environ: os.Environ()}
	err = serveUntil(ctx, listener, data, kept, volumes, pages, doctor, logger)
	stop() // also when that was no signal
	showing.Wait()
	return errors.Join(err, volumes.Close())
}

// serveUntil serves both sockets until the context ends, then lets calls under way
// finish.
func serveUntil(ctx context.Context, listener net.Listener, data string, kept driver.Listeners, volumes *driver.Driver, pages http.Handler, doctor *plugin.Doctor, logger *logrus.Logger) error {
	server := plugin.NewServer(volumes, logger)
	listeners := []net.Listener{listener}
	ended := make(chan error, 2)
	var serving sync.WaitGroup
	serving.Go(func() { ended <- server.Serve(listener) })
	if control, err := listenControl(data, kept); err != nil {
		// Volumes matter more than the status command.
		logger.Errorf("no status on this host: %v", err)
	} else {
		listeners = append(listeners, control)
		serving.Go(func() { ended <- plugin.ServeControl(control, pages, volumes, doctor) })
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
