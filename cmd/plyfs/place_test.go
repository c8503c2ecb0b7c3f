package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Half an answer is an error, whatever the command.
func TestAnswerThatCannotBeWritten(t *testing.T) {
	b := newBench(t)
	b.volume()
	for _, args := range [][]string{
		{"info", b.cipher}, {"info", "--json", b.cipher}, {"key", "ls", b.cipher}, {"key", "test", b.cipher},
		{"version"}, {"help"}, {"help", "exit-codes"}, {"keystore", "group", "ls"}, {"status", "--json"},
	} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		cmd := b.command("plyfs", args...)
		var errs strings.Builder
		cmd.Stdout, cmd.Stderr = full, &errs
		cmd.Run()
		full.Close()
		if code := cmd.ProcessState.ExitCode(); code != int(exitIO) || !strings.Contains(errs.String(), "no space left") {
			t.Errorf("%q: exit code %d, %s", args, code, errs.String())
		}
	}
}

// A journal's disk that is not there yet is no damage: a service tries again.
func TestJournalDirectoryMissing(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	b.volume()
	r := b.run(exitIO, "mount", "-o", "journal="+filepath.Join(b.dir, "none"), b.cipher, b.mnt)
	wantText(t, "standard error", r.stderr, "journal directory "+b.dir, "mount the disk that it lies on")
}

// A volume made by a relative path has its keys at the usual place.
func TestInitByRelativePath(t *testing.T) {
	b := newBench(t)
	cmd := b.command("plyfs", "init", "cipher")
	cmd.Dir = b.dir
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "config=") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Places with names that nobody thinks of.
func TestOddPlaces(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	for _, name := range []string{"with space", "new\nline", "-dash", `a,b"\`, "%s", strings.Repeat("l", 250)} {
		b.cipher, b.mnt = filepath.Join(b.dir, name), filepath.Join(b.dir, name+".m")
		if len(name) > 200 {
			b.mnt = filepath.Join(b.dir, "m"+name)
		}
		if err := os.Mkdir(b.mnt, 0o755); err != nil {
			t.Fatal(err)
		}
		b.volume()
		b.mount()
		b.write("f", "content")
		b.wantFile("f", "content")
		b.run(exitOK, "status", b.mnt)
		b.run(exitOK, "umount", b.mnt)
	}
	odd := filepath.Join(b.dir, "\xff")
	if err := os.Mkdir(odd, 0o755); err != nil {
		t.Fatal(err)
	}
	wantText(t, "init", b.run(exitUsage, "init", odd).stderr, "not UTF-8")
	wantText(t, "mount", b.run(exitUsage, "mount", b.cipher, odd).stderr, "not UTF-8")
	wantText(t, "mount", b.run(exitUsage, "mount", odd, b.mnt).stderr, "not UTF-8")
}
