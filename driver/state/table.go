package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Durability says what a change outlives when the call that made it returns.
type Durability bool

const (
	// Durable changes outlive a power cut (fsync).
	Durable Durability = true
	// Volatile changes outlive the process, not the host: enough for what a
	// reboot makes void anyway.
	Volatile Durability = false
)

// ErrHostDisk marks errors of this host's own disk.
var ErrHostDisk = errors.New("this host's own disk")

// Table is a durable map from strings to values that encode as JSON.
type Table[T any] struct {
	path       string
	durability Durability

	writing sync.Mutex // guards the following fields and the file; held over fsync
	file    *os.File
	lines   int             // changes in the file, current or not
	owed    map[string]bool // keys whose last change is in memory alone

	mu     sync.RWMutex // guards values; held for moments only
	values map[string]T
}

// Report tells what [Open] found wrong. The zero value is "nothing".
type Report struct {
	// Damaged is how many lines could not be read.
	Damaged int
	// Aside is where the file with them was kept.
	Aside string
}

// Open reads a table, or makes an empty one. Damage is not an error: it is in
// the report. Errors are those of the disk.
func Open[T any](path string, durability Durability) (*Table[T], Report, error) {
	table := &Table[T]{path: path, durability: durability, values: map[string]T{}, owed: map[string]bool{}}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, Report{}, fmt.Errorf("read state: %w", err)
	}
	report := Report{Damaged: table.load(data)}
	if report.Damaged > 0 {
		if report.Aside, err = setAside(path, data); err != nil {
			return nil, report, err
		}
	}
	// A file without damage and little history is taken as it is: opening 10,000
	// records must not cost a rewrite.
	if err == nil && report.Damaged == 0 && endsWhole(data) {
		table.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
		if err == nil && table.mostlyHistory() {
			// On a full disk it stays long: no reason not to start.
			_ = table.rewrite()
		}
	} else {
		err = table.rewrite()
	}
	if err != nil {
		return nil, report, fmt.Errorf("open state: %w", err)
	}
	return table, report, nil
}

// setAside keeps a damaged file's bytes under a new name.
func setAside(path string, data []byte) (string, error) {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".damaged-*")
	if err != nil {
		return "", fmt.Errorf("set damaged state aside: %w", err)
	}
	defer file.Close()
	if _, err := file.Write(data); err != nil {
		return "", fmt.Errorf("set damaged state aside: %w", err)
	}
	return file.Name(), nil
}

// Get returns a value. It waits for no disk.
func (t *Table[T]) Get(key string) (T, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	value, ok := t.values[key]
	return value, ok
}

// All returns a copy of the whole table. It waits for no disk.
func (t *Table[T]) All() map[string]T {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return maps.Clone(t.values)
}

// Put sets a value. After an error the old one is still there, in memory and
// on disk.
func (t *Table[T]) Put(key string, value T) error { return t.PutAll(map[string]T{key: value}) }

// PutAll sets several values at the price of one.
func (t *Table[T]) PutAll(values map[string]T) error {
	lines, err := encodeAll(values)
	if err != nil {
		return err
	}
	return t.change(lines, slices.Collect(maps.Keys(values)), func() { maps.Copy(t.values, values) })
}

// Delete removes a value; one that is not there is no error.
func (t *Table[T]) Delete(key string) error {
	if _, ok := t.Get(key); !ok {
		return nil
	}
	line, err := encodeDelete(key)
	if err != nil {
		return err
	}
	return t.change(line, []string{key}, func() { delete(t.values, key) })
}

// PutLater sets a value in memory alone, where a disk that is full must not stand in the way. The disk
// has it after the next [Table.Save]; until then a crash brings back what the disk has.
func (t *Table[T]) PutLater(key string, value T) {
	t.later(key, func() { t.values[key] = value })
}

// DeleteLater removes a value in the same way.
func (t *Table[T]) DeleteLater(key string) {
	t.later(key, func() { delete(t.values, key) })
}

func (t *Table[T]) later(key string, apply func()) {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.owed[key] = true
	t.mu.Lock()
	apply()
	t.mu.Unlock()
}

// Save writes what is in memory alone. After an error it still is.
func (t *Table[T]) Save() error {
	t.writing.Lock()
	defer t.writing.Unlock()
	if len(t.owed) == 0 {
		return nil
	}
	var lines []byte
	for key := range t.owed {
		line, err := t.lineOf(key)
		if err != nil {
			return err
		}
		lines = append(lines, line...)
	}
	return t.write(lines, slices.Collect(maps.Keys(t.owed)), func() {})
}

// lineOf is the change that makes a key what it is in memory.
func (t *Table[T]) lineOf(key string) ([]byte, error) {
	if value, ok := t.Get(key); ok {
		return encodeAll(map[string]T{key: value})
	}
	return encodeDelete(key)
}

func encodeDelete(key string) ([]byte, error) {
	line, err := change{Key: key}.encode()
	if err != nil {
		return nil, fmt.Errorf("save state of %q: %w", key, err)
	}
	return line, nil
}

func encodeAll[T any](values map[string]T) ([]byte, error) {
	var lines []byte
	for key, value := range values {
		encoded, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("save state of %q: %w", key, err)
		}
		line, err := change{Key: key, Value: encoded}.encode()
		if err != nil {
			return nil, fmt.Errorf("save state of %q: %w", key, err)
		}
		lines = append(lines, line...)
	}
	return lines, nil
}

func (t *Table[T]) change(lines []byte, keys []string, apply func()) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	return t.write(lines, keys, apply)
}

// write has changes on disk and then in memory. The caller holds writing.
func (t *Table[T]) write(lines []byte, keys []string, apply func()) error {
	if err := t.append(lines); err != nil {
		return fmt.Errorf("save state: %w: %w", ErrHostDisk, err)
	}
	t.mu.Lock()
	apply()
	t.mu.Unlock()
	t.lines += len(keys)
	for _, key := range keys {
		delete(t.owed, key)
	}
	if t.mostlyHistory() && len(t.owed) == 0 { // a rewrite would save those before their turn
		// The change is saved; a file that stays long is tried again at the next.
		_ = t.rewrite()
	}
	return nil
}

// append writes lines whole, or leaves the file as it was.
func (t *Table[T]) append(lines []byte) error {
	end, err := t.file.Seek(0, 2)
	if err != nil {
		return err
	}
	_, err = t.file.Write(lines)
	if err == nil && t.durability == Durable {
		err = t.file.Sync()
	}
	if err != nil {
		return errors.Join(err, t.file.Truncate(end))
	}
	return nil
}

// historyAllowed is how many superseded lines a file may hold beyond as many as
// it has values.
const historyAllowed = 1000

func (t *Table[T]) mostlyHistory() bool { return t.lines > 2*len(t.values)+historyAllowed }

// rewrite replaces the file by one that holds the current values only.
func (t *Table[T]) rewrite() error {
	file, err := os.CreateTemp(filepath.Dir(t.path), filepath.Base(t.path)+".new-*")
	if err != nil {
		return err
	}
	if err := t.writeAll(file); err != nil {
		file.Close()
		os.Remove(file.Name())
		return err
	}
	if err := os.Rename(file.Name(), t.path); err != nil {
		file.Close()
		os.Remove(file.Name())
		return err
	}
	if t.file != nil {
		t.file.Close()
	}
	t.file, t.lines = file, len(t.values)
	if t.durability == Volatile {
		return nil
	}
	return syncDir(filepath.Dir(t.path))
}

func (t *Table[T]) writeAll(file *os.File) error {
	lines, err := encodeAll(t.values)
	if err != nil {
		return err
	}
	content := append([]byte(header), lines...)
	if _, err := file.Write(content); err != nil || t.durability == Volatile {
		return err
	}
	return file.Sync()
}

// Close closes the file; the table must not be changed afterwards.
func (t *Table[T]) Close() error {
	t.writing.Lock()
	defer t.writing.Unlock()
	return t.file.Close()
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
