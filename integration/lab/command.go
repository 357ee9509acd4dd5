package lab

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// command runs a program of the machine with input on its standard input. Its
// error carries what the program said.
func command(ctx context.Context, input, name string, args ...string) error {
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, strings.TrimSpace(output.String()))
	}
	return nil
}
