package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/plyfs/plyfs"

// goPackage is what go list tells of a package, tests left out.
type goPackage struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

func goPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// Each house may use what is below it: cipher, then keystore and fs, which do
// not know each other, then cmd.
func TestDependencies(t *testing.T) {
	// What a package, or any below its path, may import of the module.
	allowed := []struct {
		path string
		uses []string
	}{
		{"cipher", nil},
		{"keystore/provider/protocol", nil},
		{"keystore/provider", []string{"keystore"}},
		{"keystore", []string{"cipher"}},
		{"fs/backing", []string{"fs/backing"}},
		{"fs/journal", []string{"cipher", "fs/backing"}},
		{"fs/blockfile", []string{"cipher", "fs/backing", "fs/journal"}},
		{"fs/volume", []string{"cipher", "fs/backing", "fs/journal", "fs/blockfile", "fs/volume"}},
		{"fs", []string{"cipher", "fs/backing", "fs/blockfile", "fs/volume"}},
		{"cmd", []string{"cipher", "keystore", "fs", "cmd/internal"}},
		// It serves a volume without a journal, which no command does.
		{"integration/hotpath", []string{"integration", "cipher", "fs"}},
		{"integration", []string{"integration"}},
	}
	inside := func(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
	packages := goPackages(t)
	if len(packages) < len(allowed) {
		t.Fatalf("go list names %d packages", len(packages))
	}
	for _, p := range packages {
		own := strings.TrimPrefix(p.ImportPath, module+"/")
		i := slices.IndexFunc(allowed, func(a struct {
			path string
			uses []string
		}) bool {
			return inside(own, a.path)
		})
		if i < 0 {
			t.Errorf("%s: no rule says what it may import", own)
			continue
		}
		for _, imported := range p.Imports {
			if used, ours := strings.CutPrefix(imported, module+"/"); ours {
				if !slices.ContainsFunc(allowed[i].uses, func(dir string) bool { return inside(used, dir) }) {
					t.Errorf("%s imports %s", own, used)
				}
			}
			if strings.HasPrefix(imported, "github.com/hanwen/go-fuse") && own != "fs" && !inside(own, "integration") {
				t.Errorf("%s imports go-fuse, which only fs does", own)
			}
			if strings.HasPrefix(imported, "github.com/urfave/cli") && !inside(own, "cmd") {
				t.Errorf("%s imports urfave/cli, which only cmd does", own)
			}
		}
	}
}

// Only cmd reads the environment or ends the process.
func TestOnlyCommandsExit(t *testing.T) {
	for _, p := range goPackages(t) {
		own := strings.TrimPrefix(p.ImportPath, module+"/")
		if strings.HasPrefix(own, "cmd/") || strings.HasPrefix(own, "integration") {
			continue
		}
		for _, name := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			for _, call := range []string{"os.Exit(", "os.Getenv(", "os.LookupEnv(", "os.Environ(", "log.Fatal", "func init()"} {
				if strings.Contains(string(text), call) {
					t.Errorf("%s/%s calls or has %s", own, name, call)
				}
			}
		}
	}
}
