package proxy_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

func target(zone, addr string) proxy.Target {
	return proxy.Target{Zone: zone, Addr: netip.MustParseAddrPort(addr)}
}

func TestParseTargetsTakes(t *testing.T) {
	for _, row := range []struct {
		name string
		text string
		want []proxy.Target
	}{
		{"nothing", "", nil},
		{"commas and blanks alone", " ,, ", nil},
		{"an address", "a=10.0.1.5", []proxy.Target{target("a", "10.0.1.5:2049")}},
		{"an address with a port", "a=10.0.1.5:12049", []proxy.Target{target("a", "10.0.1.5:12049")}},
		{"an IPv6 address", "a=2001:db8::5", []proxy.Target{target("a", "[2001:db8::5]:2049")}},
		{"an IPv6 address in brackets", "a=[2001:db8::5]", []proxy.Target{target("a", "[2001:db8::5]:2049")}},
		{"an IPv6 address with a port", "a=[2001:db8::5]:12049", []proxy.Target{target("a", "[2001:db8::5]:12049")}},
		{"an IPv6 address whose last part looks like a port", "a=2001:db8::2049", []proxy.Target{target("a", "[2001:db8::2049]:2049")}},
		{"an IPv4 address in IPv6's clothes", "a=::ffff:10.0.1.5", []proxy.Target{target("a", "10.0.1.5:2049")}},
		{"the same with a port", "a=[::ffff:10.0.1.5]:12049", []proxy.Target{target("a", "10.0.1.5:12049")}},
		{
			"several, in the order given, with blanks", " eu-west-1b=10.0.2.5 , eu-west-1a=10.0.1.5,",
			[]proxy.Target{target("eu-west-1b", "10.0.2.5:2049"), target("eu-west-1a", "10.0.1.5:2049")},
		},
		{
			"two zones behind one address", "a=10.0.1.5,b=10.0.1.5",
			[]proxy.Target{target("a", "10.0.1.5:2049"), target("b", "10.0.1.5:2049")},
		},
		{"a zone's name of 63 bytes", strings.Repeat("z", 63) + "=10.0.1.5", []proxy.Target{target(strings.Repeat("z", 63), "10.0.1.5:2049")}},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := proxy.ParseTargets(row.text)
			if err != nil || !slices.Equal(got, row.want) {
				t.Fatalf("ParseTargets(%q) = %v, %v; want %v", row.text, got, err, row.want)
			}
			again, err := proxy.ParseTargets(text(got))
			if err != nil || !slices.Equal(again, got) {
				t.Fatalf("read back from %q: %v, %v; want %v", text(got), again, err, got)
			}
		})
	}
}

func text(targets []proxy.Target) string {
	var items []string
	for _, t := range targets {
		items = append(items, t.String())
	}
	return strings.Join(items, ",")
}

func TestParseTargetsRefuses(t *testing.T) {
	for _, row := range []struct{ name, text, item, why string }{
		{"an address without a zone", "10.0.1.5", "10.0.1.5", "is not a zone's name"},
		{"an empty zone", "=10.0.1.5", "=10.0.1.5", `"" is not a zone's name`},
		{"a zone with a blank", "eu west=10.0.1.5", "eu west=10.0.1.5", `"eu west" is not a zone's name`},
		{"a zone that begins with a minus", "-a=10.0.1.5", "-a=10.0.1.5", "is not a zone's name"},
		{"a zone's name of 64 bytes", strings.Repeat("z", 64) + "=10.0.1.5", "zzz", "is not a zone's name"},
		{"no address", "a=", "a=", `"" is not an address`},
		{"a name in place of an address", "a=files.example.com", "a=files.example.com", `"files.example.com" is not an address`},
		{"an address with a blank before it", "a= 10.0.1.5", "a= 10.0.1.5", "is not an address"},
		{"an address out of range", "a=10.0.1.256", "a=10.0.1.256", "is not an address"},
		{"an address with leading zeros", "a=10.0.1.05", "a=10.0.1.05", "is not an address"},
		{"a network", "a=10.0.1.0/24", "a=10.0.1.0/24", "is not an address"},
		{"every address of this host", "a=0.0.0.0", "a=0.0.0.0", "nobody can be reached at 0.0.0.0"},
		{"the same of IPv6", "a=[::]:2049", "a=[::]:2049", "nobody can be reached at ::"},
		{"a group of hosts", "a=224.0.0.1", "a=224.0.0.1", "nobody can be reached at 224.0.0.1"},
		{"port 0", "a=10.0.1.5:0", "a=10.0.1.5:0", "is not an address"},
		{"a port too high", "a=10.0.1.5:65536", "a=10.0.1.5:65536", "is not an address"},
		{"an empty port", "a=10.0.1.5:", "a=10.0.1.5:", "is not an address"},
		{"a port that is a word", "a=10.0.1.5:nfs", "a=10.0.1.5:nfs", "is not an address"},
		{"a bracket that is not closed", "a=[2001:db8::5", "a=[2001:db8::5", "is not an address"},
		{"a bracket that is not opened", "a=2001:db8::5]", "a=2001:db8::5]", "is not an address"},
		{"brackets the wrong way round", "a=]2001:db8::5[", "a=]2001:db8::5[", "is not an address"},
		{"brackets within brackets", "a=[[2001:db8::5]]", "a=[[2001:db8::5]]", "is not an address"},
		{"two equals signs", "a==10.0.1.5", "a==10.0.1.5", `"=10.0.1.5" is not an address`},
		{"a zone given twice", "a=10.0.1.5,b=10.0.2.5,a=10.0.3.5", "a=10.0.3.5", "zone a is given twice"},
		{"one mount target given twice", "a=10.0.1.5,a=10.0.1.5", "a=10.0.1.5", "zone a is given twice"},
		{"a bad one after good ones", "a=10.0.1.5,b=x", "b=x", `"x" is not an address`},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := proxy.ParseTargets(row.text)
			if err == nil {
				t.Fatalf("ParseTargets(%q) = %v, want an error", row.text, got)
			}
			if got != nil {
				t.Errorf("refused targets gave %v", got)
			}
			if text := err.Error(); !strings.Contains(text, row.item) || !strings.Contains(text, row.why) {
				t.Errorf("error %q does not name %q or does not say %q", text, row.item, row.why)
			}
		})
	}
	t.Run("and says what to write", func(t *testing.T) {
		_, err := proxy.ParseTargets("x")
		if want := `mount target "x": "x" is not a zone's name; write zone=address[:port],…`; err == nil || err.Error() != want {
			t.Fatalf("error %v, want %s", err, want)
		}
	})
}

func TestTargetOfNoZoneIsShownAsItsAddress(t *testing.T) {
	if got := target("", "10.0.1.5:2049").String(); got != "10.0.1.5:2049" {
		t.Fatalf("String() = %q", got)
	}
}

func TestHomeFirst(t *testing.T) {
	a, b, c, none := target("a", "10.0.1.5:2049"), target("b", "10.0.2.5:2049"), target("c", "10.0.3.5:2049"), target("", "10.0.4.5:2049")
	for _, row := range []struct {
		name    string
		targets []proxy.Target
		home    string
		want    []proxy.Target
	}{
		{"home at the end comes to the front, the others keep their order", []proxy.Target{a, b, c}, "c", []proxy.Target{c, a, b}},
		{"home in the middle comes to the front", []proxy.Target{a, b, c}, "b", []proxy.Target{b, a, c}},
		{"home at the front stays", []proxy.Target{a, b, c}, "a", []proxy.Target{a, b, c}},
		{"an unknown home changes nothing", []proxy.Target{c, b, a}, "z", []proxy.Target{c, b, a}},
		{"no home changes nothing", []proxy.Target{c, b, a}, "", []proxy.Target{c, b, a}},
		{"no home does not prefer a target of unknown zone", []proxy.Target{a, none, b}, "", []proxy.Target{a, none, b}},
		{"home comes before a target of unknown zone", []proxy.Target{none, a, b}, "b", []proxy.Target{b, none, a}},
		{"no targets", nil, "a", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := slices.Clone(row.targets)
			if got := proxy.HomeFirst(row.targets, row.home); !slices.Equal(got, row.want) {
				t.Errorf("HomeFirst(%v, %q) = %v, want %v", row.targets, row.home, got, row.want)
			}
			if !slices.Equal(row.targets, before) {
				t.Errorf("the caller's targets became %v", row.targets)
			}
		})
	}
}

func FuzzParseTargets(f *testing.F) {
	for _, seed := range []string{"", "a=10.0.1.5", "a=[2001:db8::5]:1,b=::1", "a=]::1[", "a=10.0.0.1:0", "a=fe80::1%eth0", "a=fe80::1%e[", "a=1.1.1.1,a=1.1.1.1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, given string) {
		targets, err := proxy.ParseTargets(given)
		if err != nil {
			return
		}
		again, err := proxy.ParseTargets(text(targets))
		if err != nil || !slices.Equal(again, targets) {
			t.Fatalf("%q: %v is read back as %v, %v", given, targets, again, err)
		}
		zones := map[string]bool{}
		for _, target := range targets {
			if !target.Addr.IsValid() || target.Addr.Port() == 0 || target.Zone == "" || zones[target.Zone] {
				t.Fatalf("%q gave %v", given, targets)
			}
			zones[target.Zone] = true
		}
	})
}

func TestParseTarget(t *testing.T) {
	backup := target("b", "10.0.2.5:2049")
	backup.Backup = true
	for text, want := range map[string]proxy.Target{"a=10.0.1.5:12049": target("a", "10.0.1.5:12049"), "b=10.0.2.5,backup": backup} {
		if got, err := proxy.ParseTarget(text); err != nil || got != want {
			t.Errorf("ParseTarget(%q) = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "a", "a=10.0.1.5,spare", "a=10.0.1.5,backup,backup", "a=,backup"} {
		if got, err := proxy.ParseTarget(text); err == nil || got != (proxy.Target{}) || !strings.Contains(err.Error(), "[,backup]") {
			t.Errorf("ParseTarget(%q) = %v, %v", text, got, err)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{"", "a=10.0.1.5", "a=[2001:db8::5]:1,backup", "a=1.1.1.1,backup,backup"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, given string) {
		target, err := proxy.ParseTarget(given)
		if err != nil {
			return
		}
		text := target.String()
		if target.Backup {
			text += ",backup"
		}
		if again, err := proxy.ParseTarget(text); err != nil || again != target {
			t.Fatalf("%q: %v is read back as %v, %v", given, target, again, err)
		}
	})
}
