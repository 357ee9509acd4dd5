//go:build integration

package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func bareRecordFile(name string) string { return bareCatalogue + "/volumes/" + name + ".json" }

func TestBadDayDamagedRecord(t *testing.T) {
	beside(t)
	l := hosts(t)
	a := startBare(t, l, "host-a")
	b := startBare(t, l, "host-b", "EFS_ROOT="+a.setting("EFS_ROOT"))
	// All put a new file in the record's place, as a restore would: what is
	// written into the old one is seen when the kernel's memory of it ends.
	newer := `sed -i 's/"version": 1/"version": 4/' $f`
	for _, row := range []struct {
		name, volume, change string
		words                []string
		healable             bool // by creating the volume again
	}{
		{"garbage", "garbage", "head -c 300 /dev/urandom >$f.x && mv $f.x $f", []string{"its record is damaged", "restore the record", "create the volume again: its data is not touched"}, true},
		{"truncated", "truncated", "head -c 100 $f >$f.x && mv $f.x $f", []string{"its record is damaged", "create the volume again"}, true},
		{"empty", "empty", ": >$f.x && mv $f.x $f", []string{"its record is damaged", "create the volume again"}, true},
		{"a directory in its place", "directory", "rm $f && mkdir $f", []string{"its record is damaged", "create the volume again"}, true},
		{"a link to another one", "link", "rm $f && ln -s garbage.json $f", []string{"its record is damaged", "a symbolic link is in the way"}, true},
		{"another volume's", "others", `sed -i 's/"name": "others"/"name": "garbage"/' $f`, []string{"its record is damaged", `it is that of volume "garbage"`}, true},
		{"with a path that climbs", "climbs", `sed -i 's|"path": "/climbs"|"path": "/../climbs"|' $f`, []string{"its record is damaged", "climbs"}, true},
		{"with the catalogue as path", "inside", `sed -i 's|"path": "/inside"|"path": "/.docker-volume-efs"|' $f`, []string{"its record is damaged", "catalogue"}, true},
		{"written by a newer version", "newer", newer, []string{"newer version", "upgrade the plugin on this host"}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			a, b := a.during(t), b.during(t)
			a.mustCreate(row.volume, "uid=7")
			a.holds(row.volume, "")
			a.rewrite(bareRecordFile(row.volume), row.change)

			for _, p := range []*barePlugin{a, b} {
				_, err := p.mount(row.volume, "1")
				p.fails(err, append(row.words, "mount volume", row.volume)...)
				// Docker would forget a volume that Get does not find.
				v := p.mustGet(row.volume)
				if len(v.Status.Trouble) == 0 || !strings.Contains(v.Status.Trouble[0], row.words[0]) {
					t.Errorf("%s: Status does not say it: %+v", p.host.Name(), v.Status)
				}
				p.unused(row.volume)
			}
			if !row.healable {
				b.fails(b.create(row.volume), row.words...)
				b.fails(b.remove(row.volume), row.words...)
				a.rewrite(bareRecordFile(row.volume), `sed -i 's/"version": 4/"version": 1/' $f`)
				a.holds(row.volume, "more")
				b.holds(row.volume, "more\nmore")
				return
			}
			b.mustCreate(row.volume, "uid=7")
			a.holds(row.volume, "more")
			b.holds(row.volume, "more\nmore")
			if got := b.sh("cat " + b.dir + "/log"); !strings.Contains(got, "set aside") {
				t.Error("the log does not say that the record was set aside")
			}
		})
	}
	t.Run("removed while damaged", func(t *testing.T) {
		a, b := a.during(t), b.during(t)
		a.mustCreate("gone")
		a.holds("gone", "")
		a.rewrite(bareRecordFile("gone"), "echo '{' >$f")
		b.mustRemove("gone")
		// Nobody can tell where its data is, so it stays and can be taken up again.
		b.mustCreate("gone")
		b.holds("gone", "more")
	})
	bareTidy(t, a.onServer(""))
	a.leavesNothing()
	b.leavesNothing()
}

func TestBadDayCatalogueOfANewerVersion(t *testing.T) {
	beside(t)
	l := hosts(t)
	p := startBare(t, l, "host-a")
	p.mustCreate("before")
	p.holds("before", "")
	p.rewrite(bareCatalogue+"/catalog.json", `sed -i 's/"version":1/"version":2/' $f`)

	words := []string{"newer version", "upgrade the plugin on this host"}
	p.fails(p.create("web"), words...)
	p.restart("TERM")
	p.fails(p.create("web"), words...)
	_, err := p.mount("before", "1")
	p.fails(err, words...)
	p.fails(p.remove("before"), words...)
	if v := p.mustGet("before"); len(v.Status.Trouble) == 0 || !strings.Contains(v.Status.Trouble[0], words[0]) {
		t.Errorf("Status does not say it: %+v", v.Status)
	}
	p.unused()

	p.rewrite(bareCatalogue+"/catalog.json", "cp $f $f.newer && head -c 10 $f.newer >$f")
	p.restart("TERM")
	p.fails(p.create("web"), "catalog.json is damaged", "restore it, or move it away")

	p.rewrite(bareCatalogue+"/catalog.json", `sed 's/"version":2/"version":1/' $f.newer >$f`)
	p.holds("before", "more")
	p.works("web")
	p.leavesNothing()
}

func TestBadDayDamagedState(t *testing.T) {
	beside(t)
	l := hosts(t)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	type damage struct {
		name, line string // shell; $f is the file
		reported   bool   // it can be told from a file that was cut short by a crash
		cut        bool
	}
	damages := []damage{
		{"garbage", "head -c 700 /dev/urandom >$f", true, false},
		{"a changed letter or number", `sed -i '2,$s|"/some|"/sane|; 2,$s|"1":1|"1":7|' $f`, true, false},
		{"deleted", "rm $f", false, false},
		{"empty", "truncate -s 0 $f", false, true},
	}
	for range 2 {
		part := random.IntN(100)
		damages = append(damages, damage{
			fmt.Sprintf("truncated to %d%%", part), fmt.Sprintf("truncate -s $(( $(stat -c %%s $f) * %d / 100 )) $f", part), false, true,
		})
	}
	p := startBare(t, l, "host-a")
	p.mustCreate("used", "uid=7")
	p.mustCreate("idle", "path=/some/where")
	p.holds("idle", "")
	p.mustMount("used", "1")
	p.sh("echo used >" + p.data() + "/volumes/used/file")
	p.sh("cd " + p.data() + "/volumes/used\n{ while sleep 0.5; do echo more >>log || exit; done; } >/dev/null 2>&1 </dev/null & echo $! >" + p.dir + "/writer")

	for _, file := range []string{"volumes", "mounts", "host-id"} {
		for i, d := range damages {
			if file == "host-id" && i > 0 && d.name != "deleted" {
				continue // it is any text
			}
			t.Run(file+" "+d.name, func(t *testing.T) {
				p := p.during(t)
				p.restart("KILL", ": >"+p.dir+"/log; f="+p.data()+"/state/"+file+"; test -e $f || exit; "+d.line)
				patience := moment // what is lost unnoticed is read again from the file system
				if d.reported || file != "volumes" {
					patience = 0 // Docker would forget the volume at once
				}
				for name, path := range map[string]string{"used": "/used", "idle": "/some/where"} {
					var v bareVolume
					err := bareWait(t, patience, func() (err error) { v, err = p.get(name); return err })
					if err != nil || v.Status.Path != path {
						t.Errorf("Get tells of %s: %+v, %v", name, v, err)
					}
					// A server that is slow is trouble for a while.
					err = bareWait(t, moment, func() error {
						if v := p.mustGet(name); len(v.Status.Trouble) > 0 {
							return fmt.Errorf("%s is in trouble: %v", name, v.Status.Trouble)
						}
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
				if file != "host-id" && d.reported && !strings.Contains(p.log(), "set aside in "+p.data()+"/state/"+file+".damaged-") {
					t.Errorf("the log does not say where the damaged file is:\n%s", p.log())
				}
				counts := p.counts("used")
				switch {
				case maps.Equal(counts, map[string]int{"1": 1}): // right
				case file == "mounts" && len(counts) == 0: // void
				case file == "mounts" && d.cut && counts["1"] <= 1 && counts["2"] <= 1:
					// A journal that has lost its end is that of an earlier moment, and
					// nothing tells the two apart.
				default:
					t.Errorf("counts are %v", counts)
				}
				// And the container of before has noticed nothing.
				if got := p.sh("kill -0 $(<" + p.dir + "/writer) && echo \"$(<" + p.mustMount("used", "2") + "/file)\""); got != "used" {
					t.Errorf("the volume holds %q", got)
				}
				for _, id := range []string{"2", "2", "1"} {
					p.mustUnmount("used", id)
				}
				p.unused()
				p.mustMount("used", "1")
			})
		}
	}
	p.holds("idle", "more")
	p.sh("kill $(cat " + p.dir + "/writer)")
	p.mustUnmount("used", "1")
	p.leavesNothing()
	// With its id the host lost its entries, which are another host's now until they are too old.
	p.rewrite(bareCatalogue+"/hosts", "rm -f $f/*")
	p.mustRemove("idle")
	p.mustRemove("used")
}
