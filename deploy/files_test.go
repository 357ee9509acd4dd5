package deploy_test

import (
	"os"
	"testing"
)

// region is where these tests play.
const region = "eu-central-1"

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
