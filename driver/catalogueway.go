package driver

import (
	"errors"
	"syscall"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
)

// The catalogue of the home file system is reached as the settings say. For another EFS file system no setting
// says so, and its policy may ask for what its volumes ask for: TLS, and this host's identity.

// askFor notes how a volume is to be reached on another file system than the home one.
func (f *fileSystem) askFor(o catalog.Options) {
	if f.spec.Kind != filesystem.EFS || f.spec == f.d.options.FileSystem {
		return
	}
	if o.TLS {
		f.asksTLS.Store(true)
	}
	if o.IAM {
		f.asksIAM.Store(true)
	}
}

// askedProtection is what the settings and the volumes ask for.
func (f *fileSystem) askedProtection() protection {
	p := f.settingsProtection()
	p.IAM = p.IAM || f.asksIAM.Load()
	p.TLS = p.TLS || p.IAM || f.asksTLS.Load()
	return p
}

// main is the transport of the catalogue. The one by which it was reached last is not left as long as it is
// connected. A host that cannot show who it is does without; who is refused does not.
func (f *fileSystem) main() *transport {
	via := f.d.options.Volume.Via
	set := f.transport(nil, via, f.settingsProtection())
	asked := f.askedProtection()
	f.mu.Lock()
	last := f.catalogueBy
	f.mu.Unlock()
	now := set
	switch {
	case last != nil && last.established() != nil:
		return last
	case asked != set.protection:
		if via == viaDirect {
			via = viaAuto // the setting is of volumes that ask for no TLS
		}
		protected := f.transport(nil, via, asked)
		if !protected.unprovenLately() || set.refusedLately() {
			now = protected
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.catalogueBy = now
	return now
}

// preferAsked leaves a catalogue that cannot be written as the settings reach it, if volumes ask for more. It
// reports whether the same question may have another answer now.
func (f *fileSystem) preferAsked(err error) bool {
	if !ofOneIdentity(err) && !errors.Is(err, syscall.EROFS) {
		return false
	}
	asked := f.askedProtection()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.catalogueBy == nil || f.catalogueBy.protection == asked {
		return false
	}
	f.catalogueBy = nil
	return true
}
