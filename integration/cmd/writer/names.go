package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// did counts a thing done.
func (r *Report) did(began time.Time) {
	r.Writes++
	took := time.Since(began)
	r.Longest = max(r.Longest, took.Seconds())
	if took > slow {
		r.Stalls = append(r.Stalls, took.Seconds())
	}
}

// runNames makes a file that must not be there yet, gives it another name, appends a line to a
// journal, and removes the file of two rounds before. A server that did one of these twice
// would report EEXIST or ENOENT, or leave a line twice.
func (r *Report) runNames(dir string, lasts time.Duration) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	journal, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer journal.Close()
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		began := time.Now()
		fresh := filepath.Join(dir, fmt.Sprint("new", r.Writes))
		file, err := os.OpenFile(fresh, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
		if err := os.Rename(fresh, kept(dir, r.Writes)); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(journal, r.Writes); err != nil {
			return err
		}
		if err := journal.Sync(); err != nil {
			return err
		}
		if r.Writes >= 2 {
			if err := os.Remove(kept(dir, r.Writes-2)); err != nil {
				return err
			}
		}
		r.did(began)
	}
	return nil
}

func kept(dir string, number int) string { return filepath.Join(dir, fmt.Sprint("kept", number)) }

func (r *Report) checkNames(dir string) error {
	var want strings.Builder
	for i := range r.Writes {
		fmt.Fprintln(&want, i)
	}
	journal, err := os.ReadFile(filepath.Join(dir, "journal"))
	if err != nil {
		return err
	}
	if r.Error == "" && string(journal) != want.String() {
		return fmt.Errorf("the journal of %d rounds has %d bytes, not %d", r.Writes, len(journal), len(want.String()))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if r.Error == "" && len(entries) != min(2, r.Writes)+1 {
		return fmt.Errorf("%d files are there after %d rounds", len(entries), r.Writes)
	}
	return nil
}
