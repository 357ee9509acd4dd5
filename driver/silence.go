package driver

import (
	"errors"
	"fmt"
	"time"
)

// leftBehind is the error of who waits no longer for what goes on in the kernel.
type leftBehind struct {
	error
	isOver func() bool // whether that has ended
}

func (l leftBehind) Unwrap() error { return l.error }

// silence is a look at a volume's mount that was left behind. As long as it has not ended there is no other:
// each would wait in the kernel as well.
type silence struct {
	leftBehind
	since time.Time
	by    *session // nil if there was none; with another one it is worth looking again
}

// keepSilence keeps that a look at a volume's mount was left behind, if that is why it failed.
func (t *transport) keepSilence(volume string, why error) {
	var left leftBehind
	if !errors.As(why, &left) || t.fs.d.life.Err() != nil {
		return
	}
	t.fs.d.log.WithField("volume", volume).Warnf("look at its mount: %v", why)
	by := t.established()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.silent == nil {
		t.silent = map[string]silence{}
	}
	t.silent[volume] = silence{leftBehind{why, left.isOver}, time.Now(), by}
}

// silence is since when and why a look at a volume's mount has not ended, nil if there is none.
func (t *transport) silence(volume string) (since time.Time, why error) {
	by := t.established()
	t.mu.Lock()
	defer t.mu.Unlock()
	one, ok := t.silent[volume]
	switch {
	case !ok || one.by != by:
		return time.Time{}, nil
	case one.isOver():
		delete(t.silent, volume)
		return time.Time{}, nil
	}
	return one.since, one.error
}

// whySilent is that a volume's mount does not answer, empty if it is not known, or true of the whole file system.
func (d *Driver) whySilent(name string, k knowledge) string {
	f, err := d.fileSystemOf(k)
	if err != nil {
		return ""
	}
	if _, trouble := f.health(); errors.Is(trouble, errSilent) {
		return ""
	}
	t := f.mountedBy(k.Record)
	if _, mounted := d.uses.table.Get(name); !mounted || t == nil {
		return ""
	}
	since, why := t.silence(name)
	if why == nil {
		return ""
	}
	return fmt.Sprintf("its mount has not answered since %s: %s", since.UTC().Format(time.RFC3339), withAdvice(why))
}
