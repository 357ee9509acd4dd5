package main

import (
	"strings"
	"testing"
)

func TestVolumesCommand(t *testing.T) {
	data := controlled(t, &bin{})
	for _, row := range []struct {
		args   string
		status int
		says   []string
	}{
		{"", 0, []string{"data", "fs-1", "/data", "web-1 web-2", "keep, adopted"}},
		{"data", 0, []string{"web-1 web-2"}},
		{"--size data", 0, []string{"3.0 MiB", "7"}},
		{"--json --size data", 0, []string{`"volume":"data"`, `"size":{"bytes":3145728,"files":7,"done":true}`}},
		{"--size", 1, []string{"3.0 MiB", "its directory is gone"}},
		{"nothing", 1, []string{`no volume "nothing" is known`}},
		{"--sizes", 2, []string{"unknown flag"}},
	} {
		t.Run(row.args, func(t *testing.T) {
			exit, out := perform(t, volumesCommand, append(strings.Fields(row.args), "--data", data)...)
			if exit != row.status {
				t.Errorf("exit status %d, want %d: %s", exit, row.status, out)
			}
			for _, word := range row.says {
				if !strings.Contains(out, word) {
					t.Errorf("no %q in %q", word, out)
				}
			}
			if strings.Contains(row.args, "data") && strings.Contains(out, "/old") {
				t.Errorf("another one is listed: %q", out)
			}
		})
	}
}

func TestMeasuringShowsHowFarItIs(t *testing.T) {
	data := controlled(t, &bin{})
	all, err := listVolumes(t.Context(), data, []string{"data"})
	if err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	if err := measure(t.Context(), data, all, &shown); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(shown.String(), "\rdata: 3.0 MiB in 7 files so far") {
		t.Errorf("it shows %q", shown.String())
	}
}
