package nfs_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/nfs"
)

func TestParseOptionsTakes(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"nothing", "", ""},
		{"commas alone", " , ,,", ""},
		{"hard", "hard", "hard"},
		{"a privileged port", "resvport", "resvport"},
		{"no privileged port", "noresvport", "noresvport"},
		{"the smallest read size", "rsize=4096", "rsize=4096"},
		{"the largest read size", "rsize=1048576", "rsize=1048576"},
		{"a read size in between", "rsize=12288", "rsize=12288"},
		{"the smallest write size", "wsize=4096", "wsize=4096"},
		{"the largest write size", "wsize=1048576", "wsize=1048576"},
		{"the shortest timeout", "timeo=50", "timeo=50"},
		{"the longest timeout", "timeo=6000", "timeo=6000"},
		{"the fewest retries", "retrans=1", "retrans=1"},
		{"the most retries", "retrans=10", "retrans=10"},
		{"the shortest attribute cache", "actimeo=1", "actimeo=1"},
		{"the longest attribute cache", "actimeo=3600", "actimeo=3600"},
		{"the four attribute caches", "acregmin=1,acregmax=2,acdirmin=3,acdirmax=3600", "acdirmax=3600,acdirmin=3,acregmax=2,acregmin=1"},
		{"a list out of order, with blanks", " timeo=300 ,, hard,acregmax=10,", "acregmax=10,hard,timeo=300"},
		{"a number with leading zeros", "timeo=0300", "timeo=300"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := nfs.ParseOptions(row.text)
			if err != nil || got.String() != row.want {
				t.Fatalf("ParseOptions(%q) = %q, %v; want %q", row.text, got, err, row.want)
			}
			again, err := nfs.ParseOptions(got.String())
			if err != nil || !slices.Equal(again, got) {
				t.Fatalf("read back: %q, %v; want %q", again, err, got)
			}
		})
	}
}

func TestParseOptionsRefuses(t *testing.T) {
	const (
		rw     = "takes a number from 4096 to 1048576 (bytes, a multiple of 4096)"
		second = "takes a number from 1 to 3600 (seconds)"
		vers   = "volumes are always mounted with NFSv4.1"
		soft   = "a soft mount loses writes when the server is slow"
	)
	for _, row := range []struct {
		name string
		text string
		item string // as it stands in the error
		why  string
	}{
		{"a soft mount", "soft", "soft", soft},
		{"a soft mount with another error", "softerr", "softerr", soft},
		{"several connections", "nconnect=4", "nconnect=4", "EFS does not support it"},
		{"locks of this host alone", "nolock", "nolock", "locks would not be seen by other hosts"},
		{"no attribute cache", "noac", "noac", "every access would ask the server"},
		{"a local cache", "fsc", "fsc", "cache daemon"},
		{"another version", "vers=3", "vers=3", vers},
		{"another version by its other name", "nfsvers=4.2", "nfsvers=4.2", vers},
		{"the very version", "vers=4.1", "vers=4.1", vers},
		{"read-only", "ro", "ro", "readonly=true"},
		{"a port", "port=2050", "port=2050", "nfs://host:port/path"},
		{"an address", "addr=10.0.0.1", "addr=10.0.0.1", "give the address in the file system"},
		{"Kerberos", "sec=krb5", "sec=krb5", "EFS knows only sys"},
		{"mount.efs's tls", "tls", "tls", "volume option tls"},
		{"mount.efs's accesspoint", "accesspoint=fsap-1", "accesspoint=fsap-1", "volume option accesspoint"},
		{"something unknown", "bogus", "bogus", "allowed:"},
		{"something unknown with a value", "bogus=1", "bogus=1", "allowed:"},
		{"an option in capitals", "HARD", "HARD", "allowed:"},
		{"hard with a value", "hard=1", "hard=1", "allowed:"},
		{"resvport with a value", "resvport=1", "resvport=1", "allowed:"},
		{"an option that only ends like one", "xresvport", "xresvport", "allowed:"},
		{"a value without an option", "=4096", "=4096", "allowed:"},
		{"blanks around the equals sign", "timeo = 300", "timeo = 300", "allowed:"},
		{"a second line", "hard\nsoft", `hard\nsoft`, "allowed:"},
		{"a bad option after good ones", "hard,timeo=300,soft", "soft", soft},

		{"no read size", "rsize", "rsize", rw},
		{"an empty read size", "rsize=", "rsize=", rw},
		{"a read size too small", "rsize=4095", "rsize=4095", rw},
		{"a read size too large", "rsize=1052672", "rsize=1052672", rw},
		{"a read size in words", "rsize=1M", "rsize=1M", rw},
		{"a read size in hexadecimal", "rsize=0x1000", "rsize=0x1000", rw},
		{"a read size with two equals signs", "rsize==4096", "rsize==4096", rw},
		{"a read size beyond 64 bits", "rsize=99999999999999999999", "rsize=99999999999999999999", rw},
		{"a read size that is no multiple of a page", "rsize=4097", "rsize=4097", "rsize is in bytes, a multiple of 4096"},
		{"a write size that is no multiple of a page", "wsize=1048575", "wsize=1048575", "wsize is in bytes, a multiple of 4096"},
		{"a timeout too short", "timeo=49", "timeo=49", "takes a number from 50 to 6000 (tenths of a second)"},
		{"a timeout too long", "timeo=6001", "timeo=6001", "takes a number from 50 to 6000 (tenths of a second)"},
		{"a negative timeout", "timeo=-600", "timeo=-600", "takes a number from 50 to 6000 (tenths of a second)"},
		{"no retries", "retrans=0", "retrans=0", "takes a number from 1 to 10 (retries)"},
		{"too many retries", "retrans=11", "retrans=11", "takes a number from 1 to 10 (retries)"},
		{"attributes not cached", "actimeo=0", "actimeo=0", second},
		{"file attributes not cached", "acregmin=0", "acregmin=0", second},
		{"file attributes cached for too long", "acregmax=3601", "acregmax=3601", second},
		{"directory attributes not cached", "acdirmin=0", "acdirmin=0", second},
		{"directory attributes cached for too long", "acdirmax=3601", "acdirmax=3601", second},

		{"one option twice", "hard,hard", "hard", "is given twice"},
		{"one option with two values", "timeo=100,hard,timeo=200", "timeo", "is given twice"},
		{"both kinds of port", "resvport,noresvport", "resvport", "is given twice"},
		{"both kinds of port the other way round", "noresvport,resvport", "resvport", "is given twice"},
		{"one time for all caches beside another for one", "actimeo=30,acregmax=60", "actimeo", "sets acregmin, acregmax, acdirmin and acdirmax"},
		{"the same the other way round", "acdirmin=5,actimeo=30", "actimeo", "sets acregmin, acregmax, acdirmin and acdirmax"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := nfs.ParseOptions(row.text)
			if err == nil {
				t.Fatalf("ParseOptions(%q) = %q, want an error", row.text, got)
			}
			if got != nil {
				t.Errorf("refused options gave %q", got)
			}
			if text := err.Error(); !strings.Contains(text, `"`+row.item+`"`) || !strings.Contains(text, row.why) {
				t.Errorf("error %q does not name %q or does not say %q", text, row.item, row.why)
			}
		})
	}
}

func TestUnknownOptionIsToldWhatIsAllowed(t *testing.T) {
	const allowed = "acdirmax, acdirmin, acregmax, acregmin, actimeo, hard, noresvport, resvport, retrans, rsize, timeo, wsize"
	if got := nfs.Allowed(); got != allowed {
		t.Fatalf("Allowed() = %q, want %q", got, allowed)
	}
	for _, text := range []string{"bogus", "soft"} {
		if _, err := nfs.ParseOptions(text); err == nil || !strings.HasSuffix(err.Error(), "allowed: "+allowed) {
			t.Errorf("%s: error %v", text, err)
		}
	}
}

func TestReadAheadIsThatOfTheMountHelper(t *testing.T) {
	if nfs.ReadAheadKiB != 15*1024 {
		t.Fatalf("read-ahead of %d KiB, want 15 MiB", nfs.ReadAheadKiB)
	}
}

func TestKernel(t *testing.T) {
	v4 := netip.MustParseAddrPort("10.0.1.5:2049")
	for _, row := range []struct {
		name    string
		options string
		server  netip.AddrPort
		client  string
		want    string
	}{
		{
			"the defaults are AWS's", "", v4, "10.0.9.9",
			"vers=4.1,proto=tcp,addr=10.0.1.5,port=2049,clientaddr=10.0.9.9,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport",
		},
		{
			"an IPv6 server", "", netip.MustParseAddrPort("[2001:db8::5]:12049"), "2001:db8::9",
			"vers=4.1,proto=tcp6,addr=2001:db8::5,port=12049,clientaddr=2001:db8::9,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport",
		},
		{
			"an IPv6 server on this link keeps its interface", "", netip.MustParseAddrPort("[fe80::1%eth0]:2049"), "fe80::9",
			"vers=4.1,proto=tcp6,addr=fe80::1%eth0,port=2049,clientaddr=fe80::9,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport",
		},
		{
			"IPv4 addresses in IPv6's clothes", "", netip.MustParseAddrPort("[::ffff:10.0.1.5]:2049"), "::ffff:10.0.9.9",
			"vers=4.1,proto=tcp,addr=10.0.1.5,port=2049,clientaddr=10.0.9.9,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport",
		},
		{
			"an option takes the default's place", "timeo=300,rsize=4096", v4, "10.0.9.9",
			"vers=4.1,proto=tcp,addr=10.0.1.5,port=2049,clientaddr=10.0.9.9,wsize=1048576,hard,retrans=2,noresvport,rsize=4096,timeo=300",
		},
		{
			"a privileged port takes the default's place", "resvport", v4, "10.0.9.9",
			"vers=4.1,proto=tcp,addr=10.0.1.5,port=2049,clientaddr=10.0.9.9,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,resvport",
		},
		{
			"what is the default anyway is not given twice", "noresvport,hard,retrans=2", v4, "10.0.9.9",
			"vers=4.1,proto=tcp,addr=10.0.1.5,port=2049,clientaddr=10.0.9.9,rsize=1048576,wsize=1048576,timeo=600,hard,noresvport,retrans=2",
		},
		{
			"everything that may be asked for", "acdirmax=60,acdirmin=30,acregmax=60,acregmin=3,hard,noresvport,retrans=3,rsize=65536,timeo=100,wsize=65536", v4, "10.0.9.9",
			"vers=4.1,proto=tcp,addr=10.0.1.5,port=2049,clientaddr=10.0.9.9,acdirmax=60,acdirmin=30,acregmax=60,acregmin=3,hard,noresvport,retrans=3,rsize=65536,timeo=100,wsize=65536",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			options, err := nfs.ParseOptions(row.options)
			if err != nil {
				t.Fatal(err)
			}
			before := slices.Clone(options)
			got := options.Kernel(row.server, netip.MustParseAddr(row.client))
			if text := strings.Join(got, ","); text != row.want {
				t.Errorf("got  %s\nwant %s", text, row.want)
			}
			checkOnce(t, got)
			if !slices.Equal(options, before) {
				t.Errorf("the options themselves became %q", options)
			}
		})
	}
}

// checkOnce fails if an option is given twice.
func checkOnce(t *testing.T, options []string) {
	t.Helper()
	given := map[string]bool{}
	for _, option := range options {
		key, _, _ := strings.Cut(option, "=")
		key = strings.TrimPrefix(key, "no")
		if given[key] {
			t.Errorf("%s is given twice in %q", key, options)
		}
		given[key] = true
	}
}

func FuzzParseOptions(f *testing.F) {
	for _, seed := range []string{
		"", "hard,timeo=300", "rsize=4096,wsize=1048576,noresvport", " retrans=+2 ,,acregmax=007", "resvport,noresvport",
		"timeo=600,timeo=600", "actimeo=1,acdirmax=2", "soft", "hard\x00", "rsize=-0", "timeo=\u0663\u0660\u0660",
	} {
		f.Add(seed)
	}
	server, client := netip.MustParseAddrPort("10.0.0.1:2049"), netip.MustParseAddr("10.0.0.2")
	f.Fuzz(func(t *testing.T, text string) {
		options, err := nfs.ParseOptions(text)
		if err != nil {
			return
		}
		if !slices.IsSorted(options) {
			t.Fatalf("%q: %q is not sorted", text, options)
		}
		again, err := nfs.ParseOptions(options.String())
		if err != nil || !slices.Equal(again, options) {
			t.Fatalf("%q: %q is read back as %q, %v", text, options, again, err)
		}
		for _, option := range options {
			if strings.ContainsAny(option, ", \t\n\x00") {
				t.Fatalf("%q: option %q would break out", text, option)
			}
		}
		all := options.Kernel(server, client)
		checkOnce(t, all)
		for _, must := range []string{"vers=4.1", "addr=10.0.0.1", "hard"} {
			if !slices.Contains(all, must) {
				t.Fatalf("%q: mount options %q lack %s", text, all, must)
			}
		}
	})
}
