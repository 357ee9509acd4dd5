package driver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/state"
	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

// Defaults of [Options].
const (
	// DefaultWarm is how long a volume stays mounted after its last use: each
	// docker run mounts, unmounts and mounts again within milliseconds, and a
	// container that is restarted comes back within seconds.
	DefaultWarm = 10 * time.Second
	// DefaultCheck is how often file systems and mounts are looked at.
	DefaultCheck = 10 * time.Second
)

// Directories under Options.Data.
const (
	volumesDir = "volumes"
	stateDir   = "state"
	localDir   = "local"
	dirMode    = 0o755
	stateMode  = 0o700
)

// Tables in stateDir.
const (
	volumesTable   = "volumes"
	mountsTable    = "mounts"
	targetsTable   = "targets"
	relaysTable    = "relays"
	uncountedTable = "uncounted"
	positionsTable = "positions"
	originsTable   = "origins"
	drainedTable   = "drained"
)

// Options is what a Driver is made with. Only Data is required.
type Options struct {
	// Data is the directory for mountpoints and state. In a managed plugin it is
	// the propagated mount, which survives crashes and upgrades.
	Data string
	// FileSystem is the home file system, where volumes are unless they say
	// otherwise; the zero value is a directory under Data.
	FileSystem filesystem.Spec
	// Root is the directory of each file system under which catalogue and
	// volumes are made; empty means "/".
	Root string
	// Targets are the home file system's mount targets; none means that its
	// name is looked up. The one of Zone is tried first.
	Targets []proxy.Target
	Zone    string
	// Return says when a file system goes back to its home zone after it had to
	// leave it.
	Return proxy.ReturnPolicy
	// Listeners keeps the relays' listeners over a crash; nil means that they
	// end with the process.
	Listeners Listeners
	// Region completes the DNS name of an EFS file system known by its id; empty means
	// that Cloud tells.
	Region string
	// AccessPoint is by which the home file system is used; empty: none.
	AccessPoint string
	// Roots are the authorities of mount targets' certificates; nil: Amazon's.
	Roots *x509.CertPool
	// Cloud is AWS; nil means that DNS alone is asked, and that there is no IAM.
	Cloud Cloud
	// Volume are the defaults of volume options; empty ones mean shared
	// access, the trash, and automatic choice of the path.
	Volume catalog.Options
	// TrashKeep is how long removed volumes stay in the trash; 0: forever.
	TrashKeep time.Duration
	// Locked tells that this process's parent has locked Data for it; see [Lock]. Beside tells that the
	// parent's earlier child was killed and has not ended: it waits in the kernel, perhaps for an answer
	// on a connection that it had itself, and does not run any more.
	Locked, Beside bool
	// Host is this host's name; empty means the kernel's.
	Host string
	// Misconfigured is an error in the settings. What is known is still answered,
	// so that Docker forgets no volume; everything else fails with it.
	Misconfigured error
	// Warm and Check default to DefaultWarm and DefaultCheck.
	Warm, Check time.Duration
	// Kernel is for tests; nil means the machine's own.
	Kernel Kernel
}

func (o *Options) setDefaults() {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Volume.Access == "" {
		o.Volume.Access = "shared"
	}
	if o.Volume.Remove == "" {
		o.Volume.Remove = catalog.RemoveTrash
	}
	if o.Volume.Via == "" {
		o.Volume.Via = viaAuto
	}
	if o.Warm == 0 {
		o.Warm = DefaultWarm
	}
	if o.Check == 0 {
		o.Check = DefaultCheck
	}
	if o.Kernel == nil {
		o.Kernel = realKernel{}
	}
}

// Driver holds the volumes of this host. Make one with [New].
type Driver struct {
	options Options
	log     logrus.FieldLogger
	kernel  Kernel
	host    host
	lock    *os.File // of the state directory; nil beside an earlier worker
	known   *state.Table[knowledge]
	uses    uses
	turns   turns
	targets *state.Table[whereabouts] // of EFS file systems
	zones   zones
	relays  relays
	tls     *tlsClients
	rpc     *sunrpc.Table // nil if the kernel's transports cannot be seen

	life       context.Context // ends with Close; for work that outlives a call
	end        context.CancelFunc
	work       sync.WaitGroup // ends soon after life
	stragglers stragglers

	mu          sync.Mutex // guards the following fields; held for moments only
	fileSystems map[string]*fileSystem
	idle        map[string]*time.Timer
	closed      bool
	troubles    map[string]string // of volumes, by name

	// amnesia is set as long as what an earlier run knew may be lost: a name that
	// is not known may then be one that Docker uses.
	amnesia atomic.Bool

	list listCache
}

// knowledge is what this host durably knows of a volume.
type knowledge struct {
	Record catalog.Record `json:"record"`
	// FileSystem is where the record is, as a Spec's text.
	FileSystem string `json:"filesystem"`
	// Catalog is the id of the catalogue that lists the volume: the home file
	// system's, when the volume was learned of.
	Catalog string `json:"catalog"`
	// Trouble is why the record cannot be used, if it cannot.
	Trouble string `json:"trouble,omitempty"`
}

// New reads the state of an earlier run and makes it agree with the kernel's mount
// table. It reaches no file system; Start does that. The caller closes the
// Driver.
func New(options Options, log logrus.FieldLogger) (*Driver, error) {
	options.setDefaults()
	d := &Driver{
		options: options, log: log, kernel: options.Kernel,
		fileSystems: map[string]*fileSystem{}, idle: map[string]*time.Timer{}, troubles: map[string]string{},
		uses: uses{log: log},
	}
	d.relays = newRelays(d)
	d.life, d.end = context.WithCancel(context.Background())
	if err := d.openState(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.tls = newTLSClients(d)
	d.openTransports()
	// Before anything tells other hosts what is in use here.
	mounted, err := d.reconcile()
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.relays.reopen()
	if d.options.Beside {
		d.spawn(d.reconnect)
	}
	for name := range mounted {
		d.startIdle(name)
	}
	d.keepOrphans()
	return d, nil
}

func (d *Driver) openState() error {
	for dir, mode := range map[string]os.FileMode{volumesDir: dirMode, stateDir: stateMode} {
		if err := os.MkdirAll(filepath.Join(d.options.Data, dir), mode); err != nil {
			return fmt.Errorf("make data directory: %w", err)
		}
	}
	// The mount table has the real path.
	data, err := filepath.Abs(d.options.Data)
	if err == nil {
		data, err = filepath.EvalSymlinks(data)
	}
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	d.options.Data = data
	dir := filepath.Join(data, stateDir)
	if err := d.lockState(dir); err != nil {
		return err
	}
	if d.host, err = newHost(dir, d.options.Host); err != nil {
		return err
	}
	var damaged bool
	if d.known, damaged, err = openTable[knowledge](d, volumesTable, state.Durable); err != nil {
		return err
	}
	d.amnesia.Store(damaged)
	if d.uses.table, _, err = openTable[use](d, mountsTable, state.Volatile); err != nil {
		return err
	}
	if d.uses.uncounted, _, err = openTable[use](d, uncountedTable, state.Volatile); err != nil {
		return err
	}
	if d.targets, _, err = openTable[whereabouts](d, targetsTable, state.Durable); err != nil {
		return err
	}
	if d.zones.positions, _, err = openTable[position](d, positionsTable, state.Volatile); err != nil {
		return err
	}
	if d.zones.origins, _, err = openTable[position](d, originsTable, state.Volatile); err != nil {
		return err
	}
	if d.zones.drained, _, err = openTable[time.Time](d, drainedTable, state.Durable); err != nil {
		return err
	}
	d.relays.endpoints, _, err = openTable[endpoint](d, relaysTable, state.Volatile)
	return err
}

// openTable opens one table of the state, and tells whether it was damaged.
func openTable[T any](d *Driver, name string, durability state.Durability) (table *state.Table[T], damaged bool, err error) {
	table, report, err := state.Open[T](filepath.Join(d.options.Data, stateDir, name), durability)
	if err != nil {
		return nil, false, err
	}
	if report.Damaged > 0 {
		d.log.Errorf("state of %s: %d damaged lines were set aside in %s; what could be read is in use, the rest is read again from the file system",
			name, report.Damaged, report.Aside)
	}
	return table, report.Damaged > 0, nil
}

// openTransports makes the kernel's transports visible; without them direct mounts stay
// where they are, and relays tell the kernel from others by its sockets.
func (d *Driver) openTransports() {
	var err error
	if d.rpc, err = d.kernel.Transports(); err != nil {
		d.log.Warnf("the kernel's NFS transports cannot be seen: %v", err)
	}
}

// Start begins the work in the background: to connect to the home file system,
// to keep what is known up to date, to look after mounts.
func (d *Driver) Start() { d.work.Go(d.watch) }

// Close ends the work in the background. It unmounts nothing that containers use. Calls
// left behind on a dead file system are not waited for.
func (d *Driver) Close() error {
	d.mu.Lock()
	d.closed = true
	for _, timer := range d.idle {
		timer.Stop()
	}
	d.mu.Unlock()
	d.takeLeave()
	d.end()
	d.relays.shutdown()
	d.work.Wait()
	for _, f := range d.allFileSystems() {
		f.close()
	}
	var err error
	if d.known != nil {
		err = d.known.Close()
	}
	if d.uses.table != nil && d.uses.uncounted != nil {
		_ = d.uses.save() // what is still not saved was logged
	}
	if d.uses.table != nil {
		err = errors.Join(err, d.uses.table.Close())
	}
	if d.uses.uncounted != nil {
		err = errors.Join(err, d.uses.uncounted.Close())
	}
	if d.zones.positions != nil {
		err = errors.Join(err, d.zones.positions.Close())
	}
	if d.zones.origins != nil {
		err = errors.Join(err, d.zones.origins.Close())
	}
	if d.zones.drained != nil {
		err = errors.Join(err, d.zones.drained.Close())
	}
	if d.relays.endpoints != nil {
		err = errors.Join(err, d.relays.endpoints.Close())
	}
	if d.rpc != nil {
		err = errors.Join(err, d.rpc.Close())
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// spawn runs f in the background, unless the Driver is closing.
func (d *Driver) spawn(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.work.Go(f)
	}
	return !d.closed
}

// home is the file system on which volumes are unless they say otherwise.
func (d *Driver) home() *fileSystem { return d.fileSystem(d.options.FileSystem) }

func (d *Driver) fileSystem(spec filesystem.Spec) *fileSystem {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.fileSystems[spec.String()]
	if f == nil {
		f = newFileSystem(d, spec)
		d.fileSystems[spec.String()] = f
	}
	return f
}

func (d *Driver) allFileSystems() []*fileSystem {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*fileSystem, 0, len(d.fileSystems))
	for _, f := range d.fileSystems {
		all = append(all, f)
	}
	return all
}

// localDir is the host's directory of a local file system. The embedded default is
// made; a named one has to exist.
func (d *Driver) localDir(spec filesystem.Spec) (string, error) {
	if spec.Dir != "" {
		info, err := os.Stat(spec.Dir)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return "", fmt.Errorf("%w: the directory does not exist on this host: make it first", err)
		case err == nil && !info.IsDir():
			err = fmt.Errorf("%s: %w", spec.Dir, syscall.ENOTDIR)
		}
		return spec.Dir, err
	}
	dir := filepath.Join(d.options.Data, localDir)
	return dir, os.MkdirAll(dir, dirMode)
}

// mountpoint is where Docker finds a volume.
func (d *Driver) mountpoint(name string) string {
	return filepath.Join(d.options.Data, volumesDir, name)
}

func (d *Driver) setTrouble(name, trouble string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if trouble == "" {
		delete(d.troubles, name)
		return
	}
	if d.troubles[name] != trouble {
		d.log.WithField("volume", name).Warn(trouble)
	}
	d.troubles[name] = trouble
}

func (d *Driver) trouble(name string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.troubles[name]
}
