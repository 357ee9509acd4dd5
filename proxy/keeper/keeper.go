package keeper

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Options say what the parent runs.
type Options struct {
	// Worker is the worker's command line; its first word is only a name, the
	// program is always this one. Nil means this process's own command line. The
	// worker has this process's environment, directory and standard files.
	Worker []string
	// Listeners are kept from the start, by their names: what the parent listens on
	// before the first worker runs. Run takes them over.
	Listeners map[string]net.Listener
	// Log gets a line for every worker that crashes; it must not block for long,
	// because the next worker waits for it. Nil means no log.
	Log logrus.FieldLogger
}

// forwarded are the signals that the worker gets from the parent.
//
//nolint:gochecknoglobals // never written
var forwarded = []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP}

// Run is the parent's whole life: it runs workers, one after the other, until one
// ends for good, and gives the status to exit with: the worker's own, or 128 and
// its signal.
//
// A worker ends for good with status 0; after SIGTERM or SIGINT, which Run passes on
// (as it does SIGHUP, each as often as it comes), or after ctx ended, which is told to
// it by SIGTERM; and with any status while nothing is kept, because then there is
// nothing to lose and whoever started the parent should know. Everything else is a
// crash, and so is every end by a signal that Run did not pass on.
//
// An error means that no worker could be started at all.
//
// Run is for a process that does nothing else: it makes its memory small, leaves it
// one processor, and waits for all its children, whoever started them; as process 1
// of a container it so also ends what a worker left behind. All listeners are closed
// when it returns.
func Run(ctx context.Context, options Options) (exit int, err error) {
	return run(ctx, options, backoff{longest: longestPause})
}

func run(ctx context.Context, options Options, pauses backoff) (int, error) {
	// The kernel kills the worker when the thread that made it ends, not when the
	// process does. This one lasts as long as Run.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	k := keeper{argv: options.Worker, log: options.Log, kept: store{}, ended: make(chan struct{})}
	if k.argv == nil {
		k.argv = os.Args
	}
	if k.log == nil {
		silent := logrus.New()
		silent.SetLevel(logrus.PanicLevel)
		k.log = silent
	}
	defer k.kept.close()
	if err := k.kept.takeOver(options.Listeners); err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)
	done := make(chan struct{})
	var forwarding sync.WaitGroup
	forwarding.Go(func() { k.forward(ctx, signals, done) })
	defer forwarding.Wait()
	defer close(done)
	shrink()
	return k.workers(pauses)
}

// shrink gives back what starting up needed. The parent allocates next to nothing
// afterwards, so collecting often costs nothing.
func shrink() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(10)
	debug.FreeOSMemory()
}

// keeper is a parent.
type keeper struct {
	argv []string
	log  logrus.FieldLogger
	kept store
	// children are the workers, and whom process 1 inherits.
	children reaper

	mu     sync.Mutex // guards worker, and that none is started after the end
	worker *os.Process
	ended  chan struct{} // closed when no worker is to follow
}

// workers runs one worker after the other.
func (k *keeper) workers(pauses backoff) (int, error) {
	for first := true; ; first = false {
		started := time.Now()
		status, err := k.work()
		switch {
		case err != nil && first:
			return 1, err
		case err != nil:
			k.log.Errorf("%v; the listeners stay open", err)
		case k.isEnded() || status.Exited() && (status.ExitStatus() == 0 || len(k.kept) == 0):
			return exitStatus(status), nil
		default:
			k.log.Errorf("the worker crashed after %s: %s; %d listeners stay open for the next", time.Since(started).Round(time.Millisecond), describe(status), len(k.kept))
		}
		if !k.pause(pauses.crashed(time.Now())) {
			return 0, nil
		}
	}
}

// pause reports false if no worker is to follow.
func (k *keeper) pause(pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-k.ended:
	}
	return !k.isEnded()
}

func (k *keeper) isEnded() bool {
	select {
	case <-k.ended:
		return true
	default:
		return false
	}
}

// forward passes signals on until done. A worker that does not run yet needs no
// SIGHUP: it will read everything anew.
func (k *keeper) forward(ctx context.Context, signals <-chan os.Signal, done <-chan struct{}) {
	cancelled := ctx.Done()
	for {
		select {
		case <-done:
			return
		case <-cancelled:
			cancelled = nil
			k.tell(unix.SIGTERM)
		case s := <-signals:
			k.tell(s)
		}
	}
}

func (k *keeper) tell(s os.Signal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s != unix.SIGHUP && !k.isEnded() {
		close(k.ended)
	}
	if k.worker != nil {
		// It may have ended by itself; that is seen elsewhere.
		_ = k.worker.Signal(s)
	}
}

func exitStatus(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "signal " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}
