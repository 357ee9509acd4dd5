package keeper

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The worker asks, the parent answers; one message each, of a socket that keeps
// messages apart. A question is an operation and a name, an answer is good or bad
// and a text. A descriptor may come with either.
const (
	opKeep = 'K' // keep the listener that comes with this, under that name
	opDrop = 'D' // close the one of that name
	opNext = 'N' // give me the first one whose name comes after that one

	good = '+' // the text is a name or empty
	bad  = '-' // the text says why
)

const (
	// maxKept is how many listeners a parent keeps.
	maxKept = 256
	// maxName is how long a listener's name may be.
	maxName = 128
	// maxQuestion and maxAnswer are how long messages may be.
	maxQuestion = 1 + maxName
	maxAnswer   = 256
)

// question is what a worker asks.
type question struct {
	op   byte
	name string
}

func (q question) message() []byte { return append([]byte{q.op}, q.name...) }

// parseQuestion reads a message that may be anything.
func parseQuestion(message []byte) (question, error) {
	if len(message) == 0 || len(message) > maxQuestion {
		return question{}, fmt.Errorf("a message of %d bytes, want 1 to %d", len(message), maxQuestion)
	}
	q := question{op: message[0], name: string(message[1:])}
	switch q.op {
	case opKeep, opDrop:
		return q, checkName(q.name)
	case opNext:
		if q.name == "" {
			return q, nil
		}
		return q, checkName(q.name)
	}
	return question{}, fmt.Errorf("no operation %q", q.op)
}

// checkName refuses names that would not look well in a log.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("a listener's name of %d bytes, want 1 to %d", len(name), maxName)
	}
	for _, b := range []byte(name) {
		if b <= ' ' || b > '~' {
			return fmt.Errorf("byte %#02x in a listener's name", b)
		}
	}
	return nil
}

// answer makes an answer of at most maxAnswer bytes.
func answer(text string, err error) []byte {
	verdict := byte(good)
	if err != nil {
		verdict, text = bad, err.Error()
	}
	return append([]byte{verdict}, text[:min(len(text), maxAnswer-1)]...)
}

// parseAnswer gives the text of a good answer, and a bad one as an error.
func parseAnswer(message []byte) (string, error) {
	switch {
	case len(message) > 0 && message[0] == good:
		return string(message[1:]), nil
	case len(message) > 0 && message[0] == bad:
		return "", errors.New(string(message[1:]))
	}
	return "", fmt.Errorf("no answer of ours: %q", message)
}

// received gives all descriptors that came with a message. The caller closes them.
func received(control []byte) []int {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil // the kernel writes these; it writes them well
	}
	var all []int
	for _, m := range messages {
		// Anything else than descriptors is an error here, and holds none.
		descriptors, _ := unix.ParseUnixRights(&m)
		all = append(all, descriptors...)
	}
	return all
}

func closeAll(descriptors []int) {
	for _, fd := range descriptors {
		_ = unix.Close(fd)
	}
}
