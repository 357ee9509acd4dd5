package driver_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// BenchmarkLifeOfAVolume shows whether a volume costs more where there are many others. A third of those has a
// path of its own, which is what a volume's neighbours are looked for among.
func BenchmarkLifeOfAVolume(b *testing.B) {
	for _, others := range []int{0, 100, 10_000} {
		b.Run(fmt.Sprintf("beside=%d", others), func(b *testing.B) {
			shared := b.TempDir()
			d, err := driver.New(hostOptions(shared, b.TempDir(), "host"), silence())
			if err != nil {
				b.Fatal(err)
			}
			d.Start()
			b.Cleanup(func() {
				if err := d.Close(); err != nil {
					b.Error(err)
				}
			})
			ctx := b.Context()
			if err := d.Create(ctx, "first", nil); err != nil { // makes the catalogue
				b.Fatal(err)
			}
			for i := range others {
				if err := addRecord(shared, i); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if err := d.Create(ctx, "data", nil); err != nil {
					b.Fatal(err)
				}
				if err := d.Mount(ctx, "data", "1", func(string) error { return nil }); err != nil {
					b.Fatal(err)
				}
				if err := d.Unmount("data", "1"); err != nil {
					b.Fatal(err)
				}
				if err := d.Remove(ctx, "data"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// addRecord writes what a volume of another host has in the catalogue.
func addRecord(shared string, i int) error {
	catalogue := filepath.Join(shared, ".docker-volume-efs")
	name := fmt.Sprint("many", i)
	path := "/" + name
	if i%3 == 0 {
		path = "/apps" + path
		digests := fmt.Sprintf("%x", sha256.Sum256([]byte("/apps")))[:6] + fmt.Sprintf("%x", sha256.Sum256([]byte(path)))[:6]
		if err := os.WriteFile(filepath.Join(catalogue, "paths", name+"@"+digests), nil, 0o600); err != nil {
			return err
		}
	}
	record := fmt.Sprintf(`{"version":1,"name":%q,"state":"ready","path":%q,"options":{"access":"shared","remove":"trash","via":"auto"},`+
		`"made":true,"created":"2026-01-01T00:00:00Z","created_by":"other"}`, name, path)
	return os.WriteFile(filepath.Join(catalogue, "volumes", name+".json"), []byte(record), 0o600)
}
