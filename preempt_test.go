package main

import (
	"strings"
	"testing"
)

func TestPreemptCommand(t *testing.T) {
	data := controlled(t, &bin{})
	for _, row := range []struct {
		args   string
		status int
		says   string
	}{
		{"held", 0, "taken from host web-2"},
		{"free", 0, "no host has it"},
		{"other", 1, "no such volume"},
		{"", 2, "accepts 1 arg"},
		{"held --force", 2, "unknown flag"},
	} {
		t.Run(row.args, func(t *testing.T) {
			status, out := perform(t, preemptCommand, append(strings.Fields(row.args), "--data", data)...)
			if status != row.status || !strings.Contains(out, row.says) {
				t.Errorf("exit status %d, want %d; it says %q, want %q", status, row.status, out, row.says)
			}
		})
	}
}
