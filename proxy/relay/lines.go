package relay

import (
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// lineEvery is how often one kind of line is written at most.
const lineEvery = 10 * time.Second

// lines writes what may happen thousands of times a second: the first of a kind
// at once, then one now and again, with the number of those that were left out.
type lines struct {
	log logrus.FieldLogger

	mu    sync.Mutex // guards the following field
	kinds map[string]*kind
}

type kind struct {
	written time.Time
	omitted int
}

func (l *lines) warn(name, format string, args ...any) {
	l.mu.Lock()
	k := l.kinds[name]
	if k == nil {
		if l.kinds == nil {
			l.kinds = make(map[string]*kind)
		}
		k = &kind{}
		l.kinds[name] = k
	}
	if time.Since(k.written) < lineEvery {
		k.omitted++
		l.mu.Unlock()
		return
	}
	more := ""
	if k.omitted > 0 {
		more = fmt.Sprintf(" (and %d more like it since %s)", k.omitted, k.written.UTC().Format(time.TimeOnly))
	}
	k.written, k.omitted = time.Now(), 0
	l.mu.Unlock()
	l.log.Warnf(format+"%s", append(args, more)...)
}
