package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// section returns the part of a Markdown text under a heading of the second level.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("no heading %q", heading)
	}
	body, _, _ := strings.Cut(rest, "\n## ")
	return body
}

// TestReadmeOfAFleet carries out the chapter for operators, every command of it, one after the other. All paths
// lie below the bench's directory, and the one provider is the tests' own.
func TestReadmeOfAFleet(t *testing.T) {
	needMounts(t)
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	b.keys = filepath.Join(b.dir, "etc/plyfs/keystore")
	for _, dir := range []string{"media/a", "media/b", "root", "mnt", "srv", "etc/plyfs"} {
		if err := os.MkdirAll(filepath.Join(b.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.provider("cmk")
	b.file("root/data.pass", "a passphrase\n")
	b.file("root/infra.pass", "another\n")
	path := regexp.MustCompile(`(^|[ =,])/(root|media|mnt|srv|etc)/`)
	done := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section(t, string(text), "Keys of a fleet"), -1) {
		for line := range strings.Lines(block[1]) {
			words := strings.Fields(path.ReplaceAllString(strings.TrimSpace(line), "${1}"+b.dir+"/${2}/"))
			switch words[0] {
			case "plyfs":
				b.run(exitOK, words[1:]...)
				done++
			case "mkdir":
				err = os.MkdirAll(words[2], 0o755)
			case "rm":
				for _, f := range words[1:] {
					if err = os.Remove(f); err != nil {
						break
					}
				}
			default:
				t.Errorf("what is %q?", line)
			}
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			switch { // what the chapter promises on the way
			case strings.HasPrefix(line, "plyfs mount -o cluster"):
				b.file("mnt/mysql/table", "rows")
			case strings.HasPrefix(line, "plyfs mount -o recovery"):
				if got, _ := os.ReadFile(filepath.Join(b.dir, "mnt/mysql/table")); string(got) != "rows" {
					t.Errorf("the file holds %q", got)
				}
			}
		}
	}
	if done < 30 {
		t.Errorf("only %d commands were carried out", done)
	}
	b.run(exitNotVolume, "mount", filepath.Join(b.dir, "srv/mysql.plyfs"), filepath.Join(b.dir, "mnt/mysql"))
	b.run(exitRetired, "mount", "--keystore", filepath.Join(b.dir, "root/fleet"), filepath.Join(b.dir, "srv/mysql.plyfs"), filepath.Join(b.dir, "mnt/mysql"))
}
