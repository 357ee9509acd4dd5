package state_test

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/state"
)

// The format is written out here once more: it is on hosts' disks.
const header = "docker-volume-efs state 1\n"

func line(text string) []byte {
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE([]byte(text)), text)
}

func put(key, value string) []byte { return line(fmt.Sprintf(`{"key":%q,"value":%q}`, key, value)) }

func deletion(key string) []byte { return line(fmt.Sprintf(`{"key":%q}`, key)) }

func join(parts ...[]byte) []byte { return bytes.Join(append([][]byte{[]byte(header)}, parts...), nil) }

// writeTable writes a table's file into a directory of its own.
func writeTable(t *testing.T, data []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "table")
	must(t, os.WriteFile(path, data, 0o600))
	return path
}

// usable fails unless a table that was opened after a mishap can be changed and is good
// when it is next opened.
func usable(t *testing.T, table *state.Table[string], path string, durability state.Durability) {
	t.Helper()
	values := table.All()
	values["after"] = "the mishap"
	must(t, table.Put("after", "the mishap"))
	want(t, reopen(t, table, path, durability), values)
}

func TestWritesTheFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	table := open(t, path, state.Durable)
	must(t, table.Put("a", "1"))
	must(t, table.Delete("a"))
	must(t, table.Put("b", "2"))
	if got, want := read(t, path), join(put("a", "1"), deletion("a"), put("b", "2")); !bytes.Equal(got, want) {
		t.Errorf("file\n%swant\n%s", got, want)
	}
}

func TestCrashAtEveryByte(t *testing.T) {
	both(t, func(t *testing.T, durability state.Durability) {
		// What is known after each line.
		steps := []struct {
			line  []byte
			known map[string]string
		}{
			{[]byte(header), map[string]string{}},
			{put("a", "1"), map[string]string{"a": "1"}},
			{put("b", "2"), map[string]string{"a": "1", "b": "2"}},
			{put("a", "new"), map[string]string{"a": "new", "b": "2"}},
			{deletion("b"), map[string]string{"a": "new"}},
			{put("c", "3"), map[string]string{"a": "new", "c": "3"}},
		}
		var whole []byte
		for number, step := range steps {
			for cut := range len(step.line) {
				path := writeTable(t, append(bytes.Clone(whole), step.line[:cut]...))
				table, report := openDamaged(t, path, durability)
				known := map[string]string{}
				if number > 0 {
					known = steps[number-1].known
				}
				want(t, table, known)
				// The header is never written in place: half of one is no crash of ours.
				if damaged := number == 0 && cut > 0; (report.Damaged > 0) != damaged || (report.Aside != "") != damaged {
					t.Errorf("line %d cut to %d bytes: report %+v", number, cut, report)
				}
				usable(t, table, path, durability)
			}
			whole = append(whole, step.line...)
			table := open(t, writeTable(t, whole), durability)
			want(t, table, step.known)
		}
	})
}

func TestDamage(t *testing.T) {
	a, b, c := put("a", "1"), put("b", "2"), put("c", "3")
	text := string(b[:len(b)-1])
	for _, row := range []struct {
		name    string
		data    []byte
		damaged int
		known   map[string]string
	}{
		{"a line that is not one", join(a, []byte("garbage\n"), c), 1, map[string]string{"a": "1", "c": "3"}},
		{"an empty line", join(a, []byte("\n"), c), 1, map[string]string{"a": "1", "c": "3"}},
		{"a line of zeros", join(a, make([]byte, 30), []byte("\n"), c), 1, map[string]string{"a": "1", "c": "3"}},
		{"a line with another line's sum", join(a, fmt.Appendf(nil, "%s%s", c[:9], b[9:]), c), 1, map[string]string{"a": "1", "c": "3"}},
		{"a line without its end", join(a, []byte(text[:len(text)-5]+"\n"), c), 1, map[string]string{"a": "1", "c": "3"}},
		{"a line without its beginning", join(a, b[3:], c), 1, map[string]string{"a": "1", "c": "3"}},
		{"a sum in capitals", join(a, []byte(strings.ToUpper(text[:8])+text[8:]+"\n"), c), 1, map[string]string{"a": "1", "c": "3"}},
		{"a line end of another system", join(a, []byte(text+"\r\n"), c), 1, map[string]string{"a": "1", "c": "3"}},
		{"the header once more", join(a, []byte(header), c), 1, map[string]string{"a": "1", "c": "3"}},
		{"a good sum of no JSON", join(a, line("{"), c), 1, map[string]string{"a": "1", "c": "3"}},
		{"a good sum of nothing", join(a, line(""), c), 1, map[string]string{"a": "1", "c": "3"}},
		{"a value of another type", join(a, line(`{"key":"b","value":2}`), c), 1, map[string]string{"a": "1", "c": "3"}},
		{"several lines", join([]byte("x\n"), a, []byte("y\n"), c, []byte("z\n")), 3, map[string]string{"a": "1", "c": "3"}},
		{"a line and a last one cut short", join(a, []byte("x\n"), c, b[:5]), 1, map[string]string{"a": "1", "c": "3"}},
		{"a change, which leaves the value before it", join(a, []byte("x"), put("a", "new"), c), 1, map[string]string{"a": "1", "c": "3"}},
		{"a file that is something else", []byte("garbage\nmore garbage\n"), 1, map[string]string{}},
		{"a file of zeros", make([]byte, 8192), 1, map[string]string{}},
		{"a file without its header", a, 1, map[string]string{}},
		{"a file of a newer version", []byte("docker-volume-efs state 2\n" + string(a)), 1, map[string]string{}},
		{"a header with more behind it", []byte("docker-volume-efs state 1 plus\n" + string(a)), 1, map[string]string{}},
	} {
		t.Run(row.name+" is set aside and the rest kept", func(t *testing.T) {
			path := writeTable(t, row.data)
			table, report := openDamaged(t, path, state.Durable)
			want(t, table, row.known)
			if report.Damaged != row.damaged {
				t.Errorf("%d damaged, want %d", report.Damaged, row.damaged)
			}
			if filepath.Dir(report.Aside) != filepath.Dir(path) || !bytes.Equal(read(t, report.Aside), row.data) {
				t.Errorf("aside %s: %q", report.Aside, read(t, report.Aside))
			}
			usable(t, table, path, state.Durable)
			if got := beside(t, path); len(got) != 1 || got[0] != filepath.Base(report.Aside) {
				t.Errorf("beside it: %v", got)
			}
		})
	}
}

func TestAnyBitOfALineCounts(t *testing.T) {
	before, b := join(put("a", "1")), put("b", "2")
	good := bytes.Join([][]byte{before, b, put("c", "3")}, nil)
	for at := len(before); at < len(before)+len(b)-1; at++ {
		for bit := range 8 {
			data := bytes.Clone(good)
			data[at] ^= 1 << bit
			table, report, err := state.Open[string](writeTable(t, data), state.Volatile)
			must(t, err)
			must(t, table.Close())
			// A line end in the midst makes two lines of it.
			damaged := 1
			if data[at] == '\n' {
				damaged = 2
			}
			if got := table.All(); report.Damaged != damaged || !maps.Equal(got, map[string]string{"a": "1", "c": "3"}) {
				t.Errorf("byte %d, bit %d: %v, report %+v", at, bit, got, report)
			}
		}
	}
}

func TestDamagedFilesAreAllKept(t *testing.T) {
	path := writeTable(t, []byte("first\n"))
	_, first := openDamaged(t, path, state.Durable)
	must(t, os.WriteFile(path, []byte("second\n"), 0o600))
	_, second := openDamaged(t, path, state.Durable)
	if string(read(t, first.Aside)) != "first\n" || string(read(t, second.Aside)) != "second\n" {
		t.Errorf("%q, %q", read(t, first.Aside), read(t, second.Aside))
	}
}

func TestEmptyFileIsAnEmptyTable(t *testing.T) {
	both(t, func(t *testing.T, durability state.Durability) {
		path := writeTable(t, nil)
		table := open(t, path, durability)
		want(t, table, map[string]string{})
		usable(t, table, path, durability)
	})
}

// FuzzOpen opens any bytes as a table. With sealed they are taken for the texts of
// lines, which get good sums.
func FuzzOpen(f *testing.F) {
	for _, seed := range []string{
		"", "\n", header, header + "x", "garbage", "docker-volume-efs state 2\n",
		string(join(put("a", "1"), deletion("a"), put("b", "2"))),
		string(join(put("a", "1"), []byte("x\n"), put("b", "2")[:7])),
	} {
		f.Add([]byte(seed), false)
	}
	for _, seed := range []string{
		"{}", "null", `{"key":"a","value":"1"}`, "{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"a\"}", `{"key":"a","value":null}`,
		`{"KEY":"a","key":"b","value":"1"}`, `{"key":1}`, "{\"key\":\"\xff\",\"value\":\"\xff\"}", `{"key":"\ud800","value":"x"}`, "[]",
	} {
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, sealed bool) {
		if sealed {
			texts := strings.Split(string(data), "\n")
			data = []byte(header)
			for _, text := range texts {
				data = append(data, line(text)...)
			}
		}
		path := writeTable(t, data)
		table, report := openDamaged(t, path, state.Volatile)
		if (report.Damaged > 0) != (report.Aside != "") {
			t.Errorf("report %+v", report)
		}
		if report.Aside != "" && !bytes.Equal(read(t, report.Aside), data) {
			t.Errorf("aside %q of %q", read(t, report.Aside), data)
		}
		usable(t, table, path, state.Volatile)
	})
}
