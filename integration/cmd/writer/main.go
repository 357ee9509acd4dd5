// Command writer is a container's program that cares for its data. It holds a lock on a
// file, writes and syncs in a loop, checks at the end what it wrote, and tells how long the
// longest write took. With -names it makes, renames and removes files instead, each of
// which has to happen exactly once. Any error ends it.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	block = 4096
	pause = 5 * time.Millisecond
	// slow is what is worth telling: the test hosts themselves are slow.
	slow = 150 * time.Millisecond
)

// Report is what it prints.
type Report struct {
	Writes  int       `json:"writes"`
	Longest float64   `json:"longest_seconds"`
	Stalls  []float64 `json:"stalls_seconds"`
	Error   string    `json:"error,omitempty"`
	// Damage is what is not there although it was acknowledged.
	Damage string `json:"damage,omitempty"`
}

func main() {
	lasts := flag.Duration("for", 10*time.Second, "how long to write")
	locked := flag.Bool("lock", true, "hold a lock on the file")
	names := flag.Bool("names", false, "make, rename and remove files in a directory")
	flag.Parse()
	var report Report
	work := func() error { return report.run(flag.Arg(0), *lasts, *locked) }
	check := func() error { return report.check(flag.Arg(0)) }
	if *names {
		work = func() error { return report.runNames(flag.Arg(0), *lasts) }
		check = func() error { return report.checkNames(flag.Arg(0)) }
	}
	err := work()
	if err != nil {
		report.Error = err.Error()
	}
	if damage := check(); damage != nil {
		report.Damage = damage.Error()
		err = damage
	}
	if encodeErr := json.NewEncoder(os.Stdout).Encode(report); encodeErr != nil || err != nil {
		os.Exit(1)
	}
}

func (r *Report) run(path string, lasts time.Duration, locked bool) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: 0}
	if locked {
		if err := unix.FcntlFlock(file.Fd(), unix.F_SETLK, &lock); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
	}
	for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(pause) {
		began := time.Now()
		if _, err := file.WriteAt(content(r.Writes), int64(r.Writes)*block); err != nil {
			return fmt.Errorf("write %d: %w", r.Writes, err)
		}
		if err := file.Sync(); err != nil {
			return fmt.Errorf("sync %d: %w", r.Writes, err)
		}
		r.did(began)
	}
	return file.Close()
}

// check reads everything back, from the server and not from the page cache.
func (r *Report) check(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	got := make([]byte, block)
	for i := range r.Writes {
		if _, err := file.ReadAt(got, int64(i)*block); err != nil {
			return fmt.Errorf("read %d: %w", i, err)
		}
		if !bytes.Equal(got, content(i)) {
			return fmt.Errorf("block %d is not what was written", i)
		}
	}
	return nil
}

func content(number int) []byte {
	data := make([]byte, block)
	for at := 0; at < block; at += 8 {
		binary.LittleEndian.PutUint64(data[at:], uint64(number)<<16|uint64(at))
	}
	return data
}
