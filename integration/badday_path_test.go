//go:build integration

package integration

import (
	"fmt"
	"strings"
	"testing"
)

func TestBadDayInputIsRefused(t *testing.T) {
	beside(t)
	p := startBare(t, hosts(t), "host-a")
	p.mustCreate("before")
	long := strings.Repeat("x", 300)
	for _, row := range []struct {
		name, volume, option string
		words                []string
	}{
		{"an option that does not exist", "web", "sizze=10G", []string{`option "sizze" is unknown`, "allowed: filesystem, path, uid"}},
		{"an uid that is no number", "web", "uid=root", []string{`option uid="root"`, "allowed: a number from 0 to 4294967294"}},
		{"an uid beyond all", "web", "uid=4294967295", []string{`option uid="4294967295"`, "allowed: a number"}},
		{"a gid below zero", "web", "gid=-1", []string{`option gid="-1"`, "allowed: a number"}},
		{"a mode that is not octal", "web", "mode=0799", []string{`option mode="0799"`, "octal number such as 0700"}},
		{"a mode in words", "web", "mode=u+rwx", []string{`option mode="u+rwx"`, "octal"}},
		{"a mode with set-user-id", "web", "mode=4755", []string{`option mode="4755"`, "at most 3777"}},
		{"a transfer size with a unit", "web", "nfs=rsize=1M", []string{`option nfs="rsize=1M"`, "number from 4096 to 1048576"}},
		{"a transfer size that is no multiple", "web", "nfs=wsize=5000", []string{"wsize=5000", "a multiple of 4096"}},
		{"a transfer size beyond EFS's", "web", "nfs=rsize=2097152", []string{"rsize=2097152", "1048576"}},
		{"an NFS option that loses data", "web", "nfs=soft", []string{`"soft" is not allowed`, "loses writes"}},
		{"an NFS option of another line", "web", "nfs=rsize=4096\nsoft", []string{`"rsize=4096\nsoft"`, "takes a number"}},
		{"a read-only that is neither", "web", "readonly=perhaps", []string{`option readonly="perhaps"`, "allowed: true, false"}},
		{"a remove policy that does not exist", "web", "remove=burn", []string{`option remove="burn"`, "allowed: keep, trash, delete"}},
		{"TLS, which must not be left out silently", "web", "tls=true", []string{"tls, iam and accesspoint are for EFS file systems", "-o tls=off"}},
		{"the root itself", "web", "path=/", []string{`option path="/"`, "the root itself cannot be a volume", "name a directory beneath it"}},
		{"the root in other words", "web", "path=//./", []string{"the root itself cannot be a volume"}},
		{"a path that climbs", "web", "path=/a/../../b", []string{"climbs", "allowed: an absolute path"}},
		{"a path that climbs and comes back", "web", "path=/a/../b", []string{"climbs"}},
		{"a path that is relative", "web", "path=a/b", []string{`must begin with /`}},
		{"a path with a control character", "web", "path=/a\nb", []string{"control character"}},
		{"a path with a name of 300 bytes", "web", "path=/" + long, []string{"longer than 255"}},
		{"the catalogue", "web", "path=/" + bareCatalogue, []string{bareCatalogue, "is the catalogue and cannot be a volume"}},
		{"a directory of the catalogue", "web", "path=/" + bareCatalogue + "/trash", []string{"is the catalogue"}},
		{"the catalogue behind slashes", "web", "path=//" + bareCatalogue + "//volumes/", []string{"is the catalogue"}},
		{"the catalogue of an outer root", "web", "path=/a/" + bareCatalogue, []string{"is the catalogue"}},
		{"a name that climbs", "..", "", []string{`volume name ".." is not allowed`, "begin with a letter or digit"}},
		{"a name with a slash", "a/b", "", []string{`volume name "a/b" is not allowed`}},
		{"no name", "", "", []string{`volume name "" is not allowed`, "1 to 200"}},
		{"a name with a control character", "a\nb", "", []string{`"a\nb" is not allowed`}},
		{"a name of 300 bytes", long, "", []string{"is not allowed: use 1 to 200"}},
		{"a name in Unicode", "dätä", "", []string{`volume name "dätä" is not allowed`}},
		{"the catalogue's name", bareCatalogue, "", []string{"is not allowed", "begin with a letter or digit"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := p.during(t)
			var options []string
			if row.option != "" {
				options = append(options, row.option)
			}
			p.fails(p.create(row.volume, options...), row.words...)
			if _, err := p.get(row.volume); err == nil {
				t.Error("the volume is known")
			}
			if row.option == "" {
				_, err := p.mount(row.volume, "1")
				p.fails(err, row.words...)
				p.fails(p.remove(row.volume), row.words...)
			}
		})
	}
	if got := bareRecords(t, p.onServer("")); len(got) != 1 {
		t.Errorf("records are %v, want that of volume before", got)
	}
	bareTidy(t, p.onServer(""))
	p.unused()
	p.works("web", "uid=999", "gid=999", "mode=0700", "nfs=rsize=4096", "path=/a/b")
}

// TestBadDayLinkIsNotFollowed has a container plant a symbolic link at each component
// of another volume's path, before that volume is created and afterwards.
func TestBadDayLinkIsNotFollowed(t *testing.T) {
	beside(t)
	l := hosts(t)
	p := startBare(t, l, "host-a")
	container := startBare(t, l, "host-b", "EFS_ROOT="+p.setting("EFS_ROOT"))
	p.mustCreate("outer")
	inside := container.mustMount("outer", "container")

	type row struct{ name, component, to string }
	var rows []row
	for _, component := range []string{"a", "a/b", "a/b/c"} {
		for _, to := range []struct{ what, path string }{
			{"the host's root", "/"},
			{"what is above", "../../../../.."},
			{"its neighbour", "neighbour"},
		} {
			rows = append(rows, row{fmt.Sprintf("%s is a link to %s", component, to.what), component, to.path})
		}
	}
	words := []string{"symbolic link", "links are never followed", "remove the link"}
	plant := func(when string) {
		var lines strings.Builder
		for i, row := range rows {
			dir := fmt.Sprintf("%s/%s%d", inside, when, i)
			parent := dir + "/" + row.component[:len(row.component)-1]
			fmt.Fprintf(&lines, "mkdir -p %[1]s/neighbour; mv %[2]s/%[3]s %[2]s/moved 2>/dev/null; ln -s '%[4]s' %[2]s/%[3]s\n",
				parent, dir, row.component, row.to)
		}
		container.sh(lines.String())
	}
	touched := func() string {
		return container.sh("find "+inside+" -path '*/neighbour/*'") + p.sh("ls -d /b /c /a/b 2>/dev/null; true")
	}

	plant("create")
	for i, row := range rows {
		t.Run("at Create "+row.name, func(t *testing.T) {
			p := p.during(t)
			p.fails(p.create("web", fmt.Sprintf("path=/outer/create%d/a/b/c", i)), append(words, `create volume "web"`)...)
			if _, err := p.get("web"); err == nil {
				t.Error("the volume is known")
			}
		})
	}
	volume := func(i int) string { return fmt.Sprintf("mount%d", i) }
	for i := range rows {
		p.mustCreate(volume(i), fmt.Sprintf("path=/outer/mount%d/a/b/c", i))
	}
	p.holds(volume(0), "")
	plant("mount")
	for i, row := range rows {
		t.Run("at Mount "+row.name, func(t *testing.T) {
			p := p.during(t)
			_, err := p.mount(volume(i), "1")
			p.fails(err, append(words, "mount volume")...)
			p.unused(volume(i))
			p.fails(p.remove(volume(i)), append(words, "remove volume")...)
			p.mustGet(volume(i))
		})
	}
	if got := touched(); got != "" {
		t.Errorf("a link was followed: %s", got)
	}
	container.sh(fmt.Sprintf("for d in %s/mount*; do for c in a/b/c a/b a; do [ ! -L $d/$c ] || { rm $d/$c; mv $(dirname $d/$c)/moved $d/$c; }; done; done", inside))
	p.holds(volume(0), "more")
	for i := range rows {
		p.mustRemove(volume(i))
	}
	container.mustUnmount("outer", "container")
	p.leavesNothing()
	container.leavesNothing()
}
