package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmp speaks QEMU's machine protocol: one JSON object a line, answers in order,
// events in between, which are of no interest here.
type qmp struct {
	conn net.Conn

	mu  sync.Mutex // one command at a time; guards in
	in  *json.Decoder
	out *json.Encoder
}

// dialQMP waits for QEMU to listen on the unix socket at path.
func dialQMP(ctx context.Context, path string) (*qmp, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err == nil {
			q := &qmp{conn: conn, in: json.NewDecoder(bufio.NewReader(conn)), out: json.NewEncoder(conn)}
			var greeting json.RawMessage
			if err := q.in.Decode(&greeting); err != nil {
				conn.Close()
				return nil, fmt.Errorf("read QEMU's greeting: %w", err)
			}
			return q, q.command(ctx, "qmp_capabilities", nil, nil)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("reach QEMU: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// command sends one command and stores what it returns in result, unless nil.
func (q *qmp) command(ctx context.Context, name string, arguments, result any) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = q.conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if stop() {
			return
		}
		_ = q.conn.SetDeadline(time.Time{})
	}()

	request := struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{name, arguments}
	if err := q.out.Encode(request); err != nil {
		return fmt.Errorf("send %s to QEMU: %w", name, err)
	}
	for {
		var answer struct {
			Return json.RawMessage
			Error  *struct{ Class, Desc string }
		}
		if err := q.in.Decode(&answer); err != nil {
			return fmt.Errorf("read QEMU's answer to %s: %w", name, err)
		}
		switch {
		case answer.Error != nil:
			return fmt.Errorf("%s: QEMU says: %s", name, answer.Error.Desc)
		case answer.Return == nil:
			continue // an event
		case result == nil:
			return nil
		default:
			return json.Unmarshal(answer.Return, result)
		}
	}
}

// ignoreShared makes a migration leave out memory that is a file already: the
// state is then small and the memory file is mapped, not copied.
func (q *qmp) ignoreShared(ctx context.Context) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	return q.command(ctx, "migrate-set-capabilities",
		map[string]any{"capabilities": []capability{{"x-ignore-shared", true}}}, nil)
}

// migrated waits until the migration under way, in or out, has ended.
func (q *qmp) migrated(ctx context.Context) error {
	for {
		var state struct {
			Status string
			Desc   string `json:"error-desc"`
		}
		if err := q.command(ctx, "query-migrate", nil, &state); err != nil {
			return err
		}
		switch state.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("machine state: %s: %s", state.Status, state.Desc)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the machine state: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
