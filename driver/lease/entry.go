package lease

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Host is who may hold a lease.
type Host struct {
	// ID is unique and stable; Name is for people. Neither has a "_" or a slash.
	ID, Name string
}

// Tenure is one host's time with a lease. The NFS client that the host mounts with is of this
// tenure alone, so that evicting it harms no other.
type Tenure struct {
	// Epoch is the Serial with which the tenure began.
	Epoch uint64
	Host  Host
}

// Entry is a lease as it is on the file system. The zero Tenure is nobody's: the lease is free.
type Entry struct {
	// Serial grows with every step.
	Serial uint64
	Tenure
	// From is the tenure that has to be evicted before this one counts; zero if none has.
	From Tenure
}

// Free tells whether nobody has the lease, and nobody has to be evicted.
func (e Entry) Free() bool { return e.Tenure == Tenure{} && e.From == Tenure{} }

const separator = "_"

// String is the entry's name on the file system: SERIAL, and of a lease that is held
// _EPOCH_ID_NAME, and again of a tenure to be evicted.
func (e Entry) String() string {
	return strconv.FormatUint(e.Serial, 10) + e.Tenure.part() + e.From.part()
}

func (t Tenure) part() string {
	if t == (Tenure{}) {
		return ""
	}
	return strings.Join([]string{"", strconv.FormatUint(t.Epoch, 10), t.Host.ID, t.Host.Name}, separator)
}

// ErrName reports a name that is no lease's.
var ErrName = errors.New("it is not the name of a lease")

// Parse reads what String made.
func Parse(name string) (Entry, error) {
	fields := strings.Split(name, separator)
	serial, err := strconv.ParseUint(fields[0], 10, 64)
	e := Entry{Serial: serial}
	rest := fields[1:]
	for _, t := range []*Tenure{&e.Tenure, &e.From} {
		if err == nil && len(rest) >= 3 {
			*t = Tenure{Host: Host{rest[1], rest[2]}}
			t.Epoch, err = strconv.ParseUint(rest[0], 10, 64)
			rest = rest[3:]
		}
	}
	if err != nil || len(rest) > 0 || e.String() != name {
		return Entry{}, fmt.Errorf("%q: %w", name, ErrName)
	}
	return e, nil
}

// next is the step to a tenure.
func (e Entry) next(t, from Tenure) Entry { return Entry{Serial: e.Serial + 1, Tenure: t, From: from} }

// predecessor is the tenure whose NFS client may still be alive when the lease is taken. A host
// that had not evicted its predecessor yet has not mounted.
func (e Entry) predecessor() Tenure {
	if e.From != (Tenure{}) {
		return e.From
	}
	return e.Tenure
}
