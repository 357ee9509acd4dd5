package sunrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"
)

const (
	// moverName is what a mover is called, argv[0].
	moverName = "docker-volume-efs-mover"
	// moverFile is its open file: the first of exec.Cmd.ExtraFiles.
	moverFile = 3
	// firstAttempt is how long the first mover may take, far more than the write does; each
	// next one twice as long, as a machine may be busy.
	firstAttempt = 300 * time.Millisecond
)

// Move has a transport connect to another address of its server, at the same port. A
// connection there is is closed, and what was under way is sent again.
//
// The kernel first waits until the transport is free (XPRT_LOCKED), and who once waits is
// woken by nothing but the end of the next attempt to connect (rpc_sysfs_xprt_dstaddr_store,
// xprt_unlock_connect in net/sunrpc): on a busy connection perhaps never, or at the next move,
// whose address it would then undo. So a process of its own writes, which can be killed and
// tried again. Move does so until the context ends.
func (t *Table) Move(ctx context.Context, name string, server netip.Addr) error {
	for attempt := firstAttempt; ; attempt *= 2 {
		err := t.moveOnce(ctx, name, server, attempt)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("move transport %s to %s: %w; the transport is busy", name, server, ctx.Err())
		case !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("move transport %s to %s: %w", name, server, err)
		}
	}
}

func (t *Table) moveOnce(ctx context.Context, name string, server netip.Addr, attempt time.Duration) error {
	file, err := t.sys.OpenFile(path.Join(switches, name, addressFile), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	var done, said bytes.Buffer
	mover := exec.CommandContext(ctx, "/proc/self/exe")
	mover.Args = []string{moverName, server.String()}
	mover.ExtraFiles = []*os.File{file}
	mover.Stdout, mover.Stderr = &done, &said
	mover.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	switch err = mover.Run(); {
	case err == nil || done.Len() > 0:
		return nil // it may have been killed on its way out
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
}

// IsMover tells whether this process is a mover. The program's main function asks before
// anything else, and has it do nothing but RunMover.
func IsMover() bool { return len(os.Args) == 2 && os.Args[0] == moverName }

// RunMover does a mover's work and says so on standard output, after which the process
// ends: with an exit status other than 0 and the error on standard error, if there is one.
func RunMover() error {
	_, err := os.NewFile(moverFile, addressFile).WriteString(os.Args[1])
	if err == nil {
		_, err = fmt.Println("moved")
	}
	return err
}
