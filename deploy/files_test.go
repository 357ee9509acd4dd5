package deploy_test

import (
	"os"
	"testing"
)

// Where these tests play.
const (
	region     = "eu-central-1"
	bundleOnS3 = "s3://plugins.example.com/efs-amd64.tar.gz"
)

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
