package filesystem_test

import (
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
)

// efs is an EFS file system as Parse gives it.
func efs(id, host string) filesystem.Spec {
	return filesystem.Spec{Kind: filesystem.EFS, ID: id, Host: host, Port: 2049, Export: "/"}
}

// nfs is an NFS export as Parse gives it.
func nfs(host string, port uint16, export string) filesystem.Spec {
	return filesystem.Spec{Kind: filesystem.NFS, Host: host, Port: port, Export: export}
}

func dir(path string) filesystem.Spec {
	return filesystem.Spec{Kind: filesystem.Directory, Dir: path}
}

func TestParseTakes(t *testing.T) {
	for _, row := range []struct {
		name      string
		text      string
		want      filesystem.Spec
		canonical string // what String returns
	}{
		{"the embedded default", "dir:", dir(""), "dir:"},
		{"a local directory", "dir:/srv/volumes", dir("/srv/volumes"), "dir:/srv/volumes"},
		{"a local directory with slashes too many", "dir://srv///volumes//", dir("/srv/volumes"), "dir:/srv/volumes"},
		{"a local directory with spaces inside", "dir:/srv/my volumes", dir("/srv/my volumes"), "dir:/srv/my volumes"},
		{"a local directory in another script", "dir:/srv/データ", dir("/srv/データ"), "dir:/srv/データ"},
		{"a local directory with characters that a URL would escape", "dir:/srv/100%?#", dir("/srv/100%?#"), "dir:/srv/100%?#"},
		{"blanks around the text", " \t dir:/srv \n", dir("/srv"), "dir:/srv"},

		{"an old, short EFS id", "fs-01234567", efs("fs-01234567", ""), "fs-01234567"},
		{"an EFS id", "fs-0123456789abcdef0", efs("fs-0123456789abcdef0", ""), "fs-0123456789abcdef0"},
		{"an EFS id of the longest kind the API allows", "fs-" + strings.Repeat("a", 40), efs("fs-"+strings.Repeat("a", 40), ""), "fs-" + strings.Repeat("a", 40)},
		{
			"an EFS DNS name", "fs-01234567.efs.eu-west-1.amazonaws.com",
			efs("fs-01234567", "fs-01234567.efs.eu-west-1.amazonaws.com"), "fs-01234567.efs.eu-west-1.amazonaws.com",
		},
		{
			"an EFS DNS name in China", "fs-01234567.efs.cn-north-1.amazonaws.com.cn",
			efs("fs-01234567", "fs-01234567.efs.cn-north-1.amazonaws.com.cn"), "fs-01234567.efs.cn-north-1.amazonaws.com.cn",
		},
		{
			"the DNS name of one mount target", "eu-west-1a.fs-01234567.efs.eu-west-1.amazonaws.com",
			efs("fs-01234567", "eu-west-1a.fs-01234567.efs.eu-west-1.amazonaws.com"), "eu-west-1a.fs-01234567.efs.eu-west-1.amazonaws.com",
		},

		{"an NFS server", "nfs://files", nfs("files", 2049, "/"), "nfs://files/"},
		{"an NFS server with a slash", "nfs://files/", nfs("files", 2049, "/"), "nfs://files/"},
		{"an export", "nfs://files.example.com/export/a", nfs("files.example.com", 2049, "/export/a"), "nfs://files.example.com/export/a"},
		{"an export with slashes too many", "nfs://files//export/./a//", nfs("files", 2049, "/export/a"), "nfs://files/export/a"},
		{"a host in capitals", "nfs://FILES.Example.com/A", nfs("files.example.com", 2049, "/A"), "nfs://files.example.com/A"},
		{"a host with an underscore", "nfs://nfs_server/a", nfs("nfs_server", 2049, "/a"), "nfs://nfs_server/a"},
		{"an IPv4 address", "nfs://10.0.0.5/export", nfs("10.0.0.5", 2049, "/export"), "nfs://10.0.0.5/export"},
		{"an IPv4 address in IPv6's clothes", "nfs://[::ffff:10.0.0.5]/a", nfs("10.0.0.5", 2049, "/a"), "nfs://10.0.0.5/a"},
		{"an IPv6 address", "nfs://[2001:DB8:0:0::5]/a", nfs("2001:db8::5", 2049, "/a"), "nfs://[2001:db8::5]/a"},
		{"an IPv6 address with a port", "nfs://[2001:db8::5]:12049/a", nfs("2001:db8::5", 12049, "/a"), "nfs://[2001:db8::5]:12049/a"},
		{"an IPv6 address of one link", "nfs://[fe80::1%25eth0]/a", nfs("fe80::1%eth0", 2049, "/a"), "nfs://[fe80::1%25eth0]/a"},
		{"an IPv6 address of a link whose name has capitals", "nfs://[FE80::1%25Lan0]/a", nfs("fe80::1%Lan0", 2049, "/a"), "nfs://[fe80::1%25Lan0]/a"},
		{"a port", "nfs://files:12049/a", nfs("files", 12049, "/a"), "nfs://files:12049/a"},
		{"the usual port, spelt out", "nfs://files:2049/a", nfs("files", 2049, "/a"), "nfs://files/a"},
		{"a colon without a port", "nfs://files:/a", nfs("files", 2049, "/a"), "nfs://files/a"},
		{"the highest port", "nfs://files:65535", nfs("files", 65535, "/"), "nfs://files:65535/"},
		{"an export with an escaped space", "nfs://files/a%20b", nfs("files", 2049, "/a b"), "nfs://files/a%20b"},
		{"an export that ends in a space", "nfs://files/a%20", nfs("files", 2049, "/a "), "nfs://files/a%20"},
		{"an export with an escaped question mark", "nfs://files/a%3Fb", nfs("files", 2049, "/a?b"), "nfs://files/a%3Fb"},
		{"an export with an escaped slash", "nfs://files/a%2Fb", nfs("files", 2049, "/a/b"), "nfs://files/a/b"},
		{"two dots within a name", "nfs://files/a..b", nfs("files", 2049, "/a..b"), "nfs://files/a..b"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := filesystem.Parse(row.text)
			if err != nil {
				t.Fatal(err)
			}
			if got != row.want {
				t.Errorf("Parse(%q) = %+v, want %+v", row.text, got, row.want)
			}
			if got.String() != row.canonical {
				t.Errorf("String() = %q, want %q", got.String(), row.canonical)
			}
			again, err := filesystem.Parse(got.String())
			if err != nil || again != got {
				t.Errorf("read back: %+v, %v; want %+v", again, err, got)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, row := range []struct {
		name string
		text string
		why  string
	}{
		{"nothing", "", "nothing given"},
		{"blanks", " \t", "nothing given"},
		{"a bare path", "/srv", "not understood"},
		{"a bare host", "files.example.com", "not understood"},
		{"another scheme", "nfs4://files/a", "not understood"},
		{"a scheme in capitals", "NFS://files/a", "not understood"},
		{"an EFS id too short", "fs-0123456", "not understood"},
		{"an EFS id too long", "fs-" + strings.Repeat("a", 41), "not understood"},
		{"an EFS id that is not hexadecimal", "fs-0123456g", "not understood"},
		{"an EFS id in capitals", "FS-01234567", "not understood"},
		{"an EFS id with a path", "fs-01234567:/a", "not understood"},
		{"an EFS id with a second line", "fs-01234567\nfs-01234568", "not understood"},
		{"an access point in place of a file system", "fsap-0123456789abcdef0", "not understood"},
		{"an EFS name without a region", "fs-01234567.efs.amazonaws", "not understood"},
		{"an EFS name of another service", "fs-01234567.fsx.eu-west-1.amazonaws.com", "not understood"},

		{"a relative directory", "dir:srv", "must begin with /"},
		{"a directory that climbs", "dir:/srv/../etc", `climbs with ".."`},
		{"the host's root", "dir:/", "whole root"},
		{"the host's root in disguise", "dir:/.//.", "whole root"},
		{"a directory with a line feed inside", "dir:/a\nb", "control character"},
		{"a directory that is not UTF-8", "dir:/a\xffb", "not UTF-8"},
		{"a directory that ends in a hard space, which would not be read back", "dir:/a\u00a0/", "ends in a space"},
		{"a directory that ends in a space once its slash is gone", "dir:/a /", "ends in a space"},

		{"a URL without a host", "nfs:///export", "neither a name nor an address"},
		{"a URL with a port alone", "nfs://:2049/export", "neither a name nor an address"},
		{"a URL with a user", "nfs://root@files/a", "only host, port and path"},
		{"a URL with a query", "nfs://files/a?vers=3", "only host, port and path"},
		{"a URL with an empty query", "nfs://files/a?", "only host, port and path"},
		{"a URL with a fragment", "nfs://files/a#b", "only host, port and path"},
		{"port 0", "nfs://files:0/a", `port "0" is not between 1 and 65535`},
		{"a port too high", "nfs://files:65536/a", `port "65536" is not between 1 and 65535`},
		{"a port that is a word", "nfs://files:nfs/a", "not a URL"},
		{"a negative port", "nfs://files:-1/a", "not a URL"},
		{"a host with a blank", "nfs://my files/a", "not a URL"},
		{"a host that ends in a dot", "nfs://files./a", "neither a name nor an address"},
		{"a host that begins with a minus", "nfs://-oevil/a", "neither a name nor an address"},
		{"a host with a comma, which would end the kernel's option", "nfs://files,soft/a", "neither a name nor an address"},
		{"an IPv6 address whose link has a comma", "nfs://[fe80::1%25e,soft]/a", "neither a name nor an address"},
		{"an IPv6 address whose link has a blank", "nfs://[fe80::1%25e%20x]/a", "neither a name nor an address"},
		{"a host of 254 bytes", "nfs://" + strings.Repeat("a", 254) + "/a", "neither a name nor an address"},
		{"an IPv6 address without brackets", "nfs://2001:db8::5/a", "neither a name nor an address"},
		{"an export that climbs", "nfs://files/a/../b", `climbs with ".."`},
		{"an export that climbs in disguise", "nfs://files/a/%2e%2E/b", `climbs with ".."`},
		{"an export with an escaped NUL", "nfs://files/a%00b", "control character"},
		{"an export with an escaped line feed", "nfs://files/a%0Ab", "control character"},
		{"an export that is not UTF-8", "nfs://files/a%FFb", "not UTF-8"},
		{"an export with a name too long", "nfs://files/" + strings.Repeat("a", 256), "longer than 255 bytes"},
		{"a broken escape", "nfs://files/a%2", "not a URL"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := filesystem.Parse(row.text)
			if err == nil {
				t.Fatalf("Parse(%q) = %+v, want an error", row.text, got)
			}
			if got != (filesystem.Spec{}) {
				t.Errorf("a refused text gave %+v", got)
			}
			text := err.Error()
			if !strings.Contains(text, row.why) {
				t.Errorf("error %q does not say %q", text, row.why)
			}
			if !strings.HasSuffix(text, filesystem.Allowed) {
				t.Errorf("error %q does not end with what is allowed", text)
			}
			if strings.Contains(text, "\n") {
				t.Errorf("error %q is not one line", text)
			}
		})
	}
}

func TestRefusalNamesTheValueAsGiven(t *testing.T) {
	_, err := filesystem.Parse(" s3://bucket ")
	want := `file system " s3://bucket ": not understood; allowed: ` + filesystem.Allowed
	if err == nil || err.Error() != want {
		t.Fatalf("error %v, want %s", err, want)
	}
}

func TestZeroSpecIsTheEmbeddedDefault(t *testing.T) {
	if got := (filesystem.Spec{}).String(); got != "dir:" {
		t.Fatalf("String() = %q, want dir:", got)
	}
}

func TestCleanPathTakes(t *testing.T) {
	name255 := strings.Repeat("n", 255)
	longest := strings.Repeat("/"+strings.Repeat("n", 254), 16) + "/" + strings.Repeat("n", 14)
	for _, row := range []struct{ name, path, want string }{
		{"the root", "/", "/"},
		{"a doubled root", "//", "/"},
		{"a plain path", "/a/b", "/a/b"},
		{"doubled and trailing slashes", "//a///b//", "/a/b"},
		{"single dots", "/./a/./b/.", "/a/b"},
		{"names with dots", "/..a/b../...", "/..a/b../..."},
		{"a hidden name", "/.a", "/.a"},
		{"Unicode", "/données/データ/🐘", "/données/データ/🐘"},
		{"blanks", "/a b/ c ", "/a b/ c "},
		{"a component of 255 bytes", "/" + name255, "/" + name255},
		{"a path of 4095 bytes", longest[:4095], longest[:4095]},
		{"characters special to a shell or to the kernel's options", `/a,b=c;$(d)\"'`, `/a,b=c;$(d)\"'`},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := filesystem.CleanPath(row.path)
			if err != nil || got != row.want {
				t.Fatalf("CleanPath(%q) = %q, %v; want %q", row.path, got, err, row.want)
			}
		})
	}
}

func TestCleanPathRefuses(t *testing.T) {
	for _, row := range []struct{ name, path, why string }{
		{"nothing", "", `path "" must begin with /`},
		{"a relative path", "a/b", `path "a/b" must begin with /`},
		{"a path that begins with a dot", "./a", "must begin with /"},
		{"a blank before the slash", " /a", "must begin with /"},
		{"two dots alone", "/..", `path "/.." climbs with ".."`},
		{"two dots first", "/../a", `climbs with ".."`},
		{"two dots within", "/a/../b", `climbs with ".."`},
		{"two dots last", "/a/..", `climbs with ".."`},
		{"two dots that lead back to where they began", "/a/b/..//b", `climbs with ".."`},
		{"two dots between doubled slashes", "/a//..//b", `climbs with ".."`},
		{"NUL", "/a\x00b", "control character"},
		{"a line feed", "/a\nb", "control character"},
		{"a tabulator", "/a\tb", "control character"},
		{"an escape character", "/a\x1b[31mb", "control character"},
		{"DEL", "/a\x7f", "control character"},
		{"a control character beyond ASCII, which a terminal takes as an escape", "/a\u009b31mb", "control character"},
		{"bytes that are no UTF-8", "/a\xff\xfeb", "not UTF-8"},
		{"UTF-8 cut short", "/caf\xc3", "not UTF-8"},
		{"an overlong slash", "/a\xc0\xafb", "not UTF-8"},
		{"a surrogate", "/a\xed\xa0\x80", "not UTF-8"},
		{"a component of 256 bytes", "/a/" + strings.Repeat("n", 256), "component longer than 255 bytes"},
		{"128 letters of two bytes each", "/" + strings.Repeat("é", 128), "component longer than 255 bytes"},
		{"a path of 4096 bytes", strings.Repeat("/abcdefg", 512), "path of 4096 bytes is longer than 4095"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := filesystem.CleanPath(row.path)
			if err == nil || !strings.Contains(err.Error(), row.why) {
				t.Fatalf("CleanPath(%.80q) = %q, %v; want an error with %q", row.path, got, err, row.why)
			}
			if got != "" {
				t.Errorf("a refused path gave %q", got)
			}
		})
	}
}

func TestServerName(t *testing.T) {
	id := efs("fs-01234567", "")
	for _, row := range []struct {
		name   string
		spec   filesystem.Spec
		region string
		want   string
	}{
		{"an id in Europe", id, "eu-west-1", "fs-01234567.efs.eu-west-1.amazonaws.com"},
		{"an id in the United States", id, "us-east-1", "fs-01234567.efs.us-east-1.amazonaws.com"},
		{"an id in GovCloud", id, "us-gov-west-1", "fs-01234567.efs.us-gov-west-1.amazonaws.com"},
		{"an id in China", id, "cn-north-1", "fs-01234567.efs.cn-north-1.amazonaws.com.cn"},
		{"an id in the European Sovereign Cloud", id, "eusc-de-east-1", "fs-01234567.efs.eusc-de-east-1.amazonaws.eu"},
		{"an id in the ISO partition", id, "us-iso-east-1", "fs-01234567.efs.us-iso-east-1.c2s.ic.gov"},
		{"an id in the ISO-B partition", id, "us-isob-east-1", "fs-01234567.efs.us-isob-east-1.sc2s.sgov.gov"},
		{"an id in the ISO-E partition", id, "eu-isoe-west-1", "fs-01234567.efs.eu-isoe-west-1.cloud.adc-e.uk"},
		{"an id in the ISO-F partition", id, "us-isof-south-1", "fs-01234567.efs.us-isof-south-1.csp.hci.ic.gov"},
		{"a DNS name keeps its own region", efs("fs-01234567", "fs-01234567.efs.eu-west-1.amazonaws.com"), "us-east-1", "fs-01234567.efs.eu-west-1.amazonaws.com"},
		{"a DNS name needs no region", efs("fs-01234567", "fs-01234567.efs.eu-west-1.amazonaws.com"), "", "fs-01234567.efs.eu-west-1.amazonaws.com"},
		{"an NFS server", nfs("files", 2049, "/a"), "", "files"},
		{"an NFS server's address", nfs("2001:db8::5", 2049, "/a"), "eu-west-1", "2001:db8::5"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := row.spec.ServerName(row.region)
			if err != nil || got != row.want {
				t.Fatalf("ServerName(%q) = %q, %v; want %q", row.region, got, err, row.want)
			}
		})
	}

	t.Run("an id without a region says which setting helps", func(t *testing.T) {
		_, err := id.ServerName("")
		if err == nil || !strings.Contains(err.Error(), "fs-01234567") || !strings.Contains(err.Error(), "AWS_REGION") {
			t.Fatalf("error: %v", err)
		}
	})
	t.Run("a directory has no server", func(t *testing.T) {
		_, err := dir("/srv").ServerName("eu-west-1")
		if err == nil || !strings.Contains(err.Error(), "dir:/srv has no server") {
			t.Fatalf("error: %v", err)
		}
	})
}

// Whatever the name that Parse takes, ServerName of an id is a name that Parse
// takes as well, and as the same file system.
func TestServerNameOfAnIDIsAnEFSName(t *testing.T) {
	for _, region := range []string{"eu-west-1", "cn-north-1", "eusc-de-east-1", "us-iso-east-1", "us-isob-east-1", "eu-isoe-west-1", "us-isof-south-1"} {
		name, err := efs("fs-01234567", "").ServerName(region)
		if err != nil {
			t.Fatal(err)
		}
		if spec, err := filesystem.Parse(name); err != nil || spec != efs("fs-01234567", name) {
			t.Errorf("Parse(%q) = %+v, %v", name, spec, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"dir:", "dir:/srv//a ", "dir:/a\u00a0/", "dir:/%2e%2e/x", "fs-01234567", "z.fs-01234567.efs.eu-west-1.amazonaws.com",
		"nfs://h", "nfs://[fe80::1%25eth0]:1/a%20", "nfs://H:02049//a/./%2e./b", "nfs://[::ffff:1.2.3.4]/%zz", "nfs://h/%c2%a0",
		"nfs://h%41/a", "nfs://[fe80::1%25e,soft]/a", "nfs://[v1.x]/a", "nfs://h/a#", "nfs://\u212aelvin/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		spec, err := filesystem.Parse(text)
		if err != nil {
			return
		}
		again, err := filesystem.Parse(spec.String())
		if err != nil || again != spec {
			t.Fatalf("%q: %+v is read back from %q as %+v, %v", text, spec, spec.String(), again, err)
		}
		for _, p := range []string{spec.Dir, spec.Export} {
			checkClean(t, p)
		}
		switch spec.Kind {
		case filesystem.Directory:
			if spec.Dir == "/" {
				t.Fatalf("%q is the host's root", text)
			}
		case filesystem.NFS, filesystem.EFS:
			if spec.Port == 0 || spec.Export == "" || spec.Host == "" && spec.ID == "" {
				t.Fatalf("%q: %+v is incomplete", text, spec)
			}
			if strings.ContainsAny(spec.Host, ", \t\n/") {
				t.Fatalf("%q: host %q would break out of a mount option", text, spec.Host)
			}
		}
	})
}

func FuzzCleanPath(f *testing.F) {
	for _, seed := range []string{
		"/", "//a///b/", "/./a/.", "/a/../b", "/..a/b..", "/a\x00", "/\xff", "/\u0085", "/\ufffd",
		"/" + strings.Repeat("n", 256), strings.Repeat("/n", 2048),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, p string) {
		clean, err := filesystem.CleanPath(p)
		if err != nil {
			return
		}
		if clean == "" {
			t.Fatalf("CleanPath(%q) is empty", p)
		}
		checkClean(t, clean)
		if again, err := filesystem.CleanPath(clean); err != nil || again != clean {
			t.Fatalf("CleanPath(%q) = %q, and of that %q, %v", p, clean, again, err)
		}
	})
}

func checkClean(t *testing.T, p string) {
	t.Helper()
	if p == "" || p == "/" {
		return
	}
	if len(p) > 4095 || p[0] != '/' {
		t.Fatalf("path %q", p)
	}
	for name := range strings.SplitSeq(p[1:], "/") {
		if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsRune(name, 0) || strings.ToValidUTF8(name, "") != name {
			t.Fatalf("path %q has the component %q", p, name)
		}
	}
}
