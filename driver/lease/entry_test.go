package lease_test

import (
	"errors"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
)

var (
	hostA = lease.Host{ID: "0a1b2c3d4e5f", Name: "web-1.example"}
	hostB = lease.Host{ID: "5f4e3d2c1b0a", Name: "web-2"}
)

func TestEntryIsAName(t *testing.T) {
	for _, row := range []struct {
		name  string
		entry lease.Entry
		text  string
	}{
		{"a free lease", lease.Entry{Serial: 7}, "7"},
		{"one that a host has", lease.Entry{Serial: 8, Tenure: lease.Tenure{Epoch: 8, Host: hostA}}, "8_8_0a1b2c3d4e5f_web-1.example"},
		{
			"one whose last holder is still to be evicted",
			lease.Entry{Serial: 9, Tenure: lease.Tenure{Epoch: 9, Host: hostB}, From: lease.Tenure{Epoch: 8, Host: hostA}},
			"9_9_5f4e3d2c1b0a_web-2_8_0a1b2c3d4e5f_web-1.example",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := row.entry.String(); got != row.text {
				t.Errorf("it is %q, want %q", got, row.text)
			}
			if got, err := lease.Parse(row.text); err != nil || got != row.entry {
				t.Errorf("%q is read as %+v, %v", row.text, got, err)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"", "x", "-1", "+1", "01", "1_", "1_2", "1_2_a", "1_x_a_b", "1_2_a_b_c", "1_2_a_b_3_c_d_e", "1_0__", ".nfs0000", "18446744073709551616"} {
		if got, err := lease.Parse(text); !errors.Is(err, lease.ErrName) {
			t.Errorf("%q is read as %+v, %v", text, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("7")
	f.Add("9_9_5f4e3d2c1b0a_web-2_8_0a1b2c3d4e5f_web-1.example")
	f.Fuzz(func(t *testing.T, text string) {
		if e, err := lease.Parse(text); err == nil && e.String() != text {
			t.Errorf("%q is read as %q", text, e)
		}
	})
}
