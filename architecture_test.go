package main

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/docker-volume-efs/docker-volume-efs"

// pkg is what go list says about a package.
type pkg struct {
	ImportPath                string
	Dir                       string
	GoFiles                   []string
	Imports                   []string
	TestImports, XTestImports []string
	IgnoredGoFiles            []string
}

// layer is the top directory under the module: "plugin", "driver" …; "" is the
// command itself, "-" is not ours.
func layer(path string) string {
	if path == module {
		return ""
	}
	inside, ours := strings.CutPrefix(path, module+"/")
	if !ours {
		return "-"
	}
	top, _, _ := strings.Cut(inside, "/")
	return top
}

func packages(t *testing.T) []pkg {
	t.Helper()
	// git describes no tree of somebody else's.
	command := exec.CommandContext(t.Context(), "go", "list", "-buildvcs=false", "-json", "-tags", "integration,browser", "./...")
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for decoder := json.NewDecoder(strings.NewReader(string(output))); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// mayImport is the direction: plugin -> driver -> proxy, and the command on top.
// Tests from outside know nothing of the inside.
var mayImport = map[string][]string{
	"":            {"", "plugin", "driver", "proxy"},
	"plugin":      {"plugin", "driver", "proxy"},
	"driver":      {"driver", "proxy"},
	"proxy":       {"proxy"},
	"integration": {"integration"},
	"deploy":      {"deploy"},
}

func TestImportsPointOneWay(t *testing.T) {
	for _, p := range packages(t) {
		allowed, known := mayImport[layer(p.ImportPath)]
		if !known {
			t.Errorf("%s: the design has no such directory", p.ImportPath)
		}
		for _, imported := range append(append(p.Imports, p.TestImports...), p.XTestImports...) {
			if l := layer(imported); l != "-" && !slices.Contains(allowed, l) {
				t.Errorf("%s imports %s: imports point one way, plugin -> driver -> proxy", p.ImportPath, imported)
			}
		}
	}
}

// callsKernel are the packages under proxy that are there to make system calls.
// .golangci.yml names them as well.
var callsKernel = []string{"proxy/keeper", "proxy/peer", "proxy/tcp"}

// What a layer is ignorant of, it cannot depend on by accident.
func TestLayersDoNotKnowWhatIsNotTheirs(t *testing.T) {
	for _, rule := range []struct{ layer, mustNot, reason string }{
		{"driver", "github.com/docker/", "driver knows nothing of Docker's protocol"},
		{"proxy", "github.com/docker/", "proxy knows nothing of Docker"},
		{"plugin", module + "/driver/nfs", "plugin knows nothing of NFS"},
		{"plugin", module + "/driver/mount", "plugin knows nothing of mounts"},
		{"plugin", "golang.org/x/sys/unix", "plugin makes no system calls of its own"},
		{"proxy", "golang.org/x/sys/unix", "system calls are made in packages of their own only"},
	} {
		for _, p := range packages(t) {
			if layer(p.ImportPath) != rule.layer {
				continue
			}
			for _, imported := range p.Imports {
				if strings.HasPrefix(imported, rule.mustNot) && !slices.Contains(callsKernel, strings.TrimPrefix(p.ImportPath, module+"/")) {
					t.Errorf("%s imports %s: %s", p.ImportPath, imported, rule.reason)
				}
			}
		}
	}
}

// Every package says what it is in one place: doc.go, a command in main.go.
func TestEachPackageHasOneDocument(t *testing.T) {
	for _, p := range packages(t) {
		var documents []string
		name := ""
		for _, file := range p.GoFiles {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			name = parsed.Name.Name
			if parsed.Doc != nil && parsed.Doc.Text() != "" {
				documents = append(documents, file)
				want := "Package " + name + " "
				if name == "main" {
					want = "Command " + filepath.Base(p.ImportPath) + " "
				}
				if !strings.HasPrefix(parsed.Doc.Text(), want) {
					t.Errorf("%s/%s: the document does not begin with %q", p.ImportPath, file, want)
				}
			}
		}
		want := "doc.go"
		if name == "main" {
			want = "main.go"
		}
		if len(documents) != 1 || documents[0] != want && len(p.GoFiles) > 1 {
			t.Errorf("%s: package comments in %v, want one, in %s", p.ImportPath, documents, want)
		}
	}
}
