package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// header is the file's first line; a file with another one is damaged as a
// whole, and so is one of a newer version.
const header = "docker-volume-efs state 1\n"

// change is one line: eight hexadecimal digits of the IEEE CRC-32 of the JSON
// text, a space, the JSON text.
type change struct {
	Key string `json:"key"`
	// Value is absent where the key was deleted.
	Value json.RawMessage `json:"value,omitempty"`
}

const sumDigits = 8

func (c change) encode() ([]byte, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE(text), text), nil
}

var errDamaged = errors.New("damaged line")

func decode(line []byte) (change, error) {
	if len(line) <= sumDigits || line[sumDigits] != ' ' {
		return change{}, errDamaged
	}
	text := line[sumDigits+1:]
	if fmt.Sprintf("%08x", crc32.ChecksumIEEE(text)) != string(line[:sumDigits]) {
		return change{}, errDamaged
	}
	var c change
	if err := json.Unmarshal(text, &c); err != nil {
		return change{}, errDamaged
	}
	return c, nil
}

func endsWhole(data []byte) bool { return bytes.HasSuffix(data, []byte("\n")) }

// load applies a file's lines and returns how many were damaged. A last line
// without its end is a change that did not happen, not damage.
func (t *Table[T]) load(data []byte) (damaged int) {
	if len(data) == 0 {
		return 0
	}
	body, ok := bytes.CutPrefix(data, []byte(header))
	if !ok {
		return 1
	}
	for len(body) > 0 {
		line, rest, whole := bytes.Cut(body, []byte("\n"))
		body = rest
		if !whole {
			break
		}
		if err := t.apply(line); err != nil {
			damaged++
			continue
		}
		t.lines++
	}
	return damaged
}

func (t *Table[T]) apply(line []byte) error {
	c, err := decode(line)
	if err != nil {
		return err
	}
	if c.Value == nil {
		delete(t.values, c.Key)
		return nil
	}
	var value T
	if err := json.Unmarshal(c.Value, &value); err != nil {
		return errDamaged
	}
	t.values[c.Key] = value
	return nil
}
