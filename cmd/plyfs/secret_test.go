package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
)

// A passphrase that others can read is used, for containers mount theirs so, and
// told of.
// A passphrase that was given where none can be is not repeated.
func TestPassphraseOnTheCommandLine(t *testing.T) {
	b := newBench(t)
	for _, args := range [][]string{
		{"keystore", "init", "--data-passphrase=hunter2"}, {"keystore", "init", "--data-passphrase", "hunter2"},
		{"keystore", "init", "--infra-passphrase", "hunter2"}, {"mount", "-o", "data-passphrase=hunter2", b.cipher, b.mnt},
	} {
		r := b.run(exitUsage, args...)
		if strings.Contains(r.stderr+r.stdout, "hunter2") {
			t.Errorf("%q: %s", args, r.stderr)
		}
		wantText(t, "hint", r.stderr, "plyfs: hint: ", "-passphrase-file")
	}
}

func TestPassphraseFileOfOthers(t *testing.T) {
	b := newBench(t)
	path := b.file("pass", "a long enough passphrase")
	r := b.run(exitOK, "keystore", "init", "--infra-passphrase-file", path)
	if strings.Contains(r.stderr, "warning") {
		t.Errorf("a good file is warned of:\n%s", r.stderr)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	r = b.run(exitOK, "init", "--infra-passphrase-file", path, b.cipher)
	wantText(t, "standard error", r.stderr, "warning: the passphrase file "+path+" has mode 0644")
	r = b.run(exitUsage, "init", "--infra-passphrase-file", b.dir, filepath.Join(b.dir, "other"))
	wantText(t, "standard error", r.stderr, "is a directory", "plyfs: hint: name a file")
}

func TestReadPassphraseFromFile(t *testing.T) {
	tests := []struct {
		name, content, want, err string
	}{
		{"a line", "hunter2\n", "hunter2", ""},
		{"no line end", "hunter2", "hunter2", ""},
		{"a line end of DOS", "hunter2\r\n", "hunter2", ""},
		{"blanks count", " a b \n", " a b ", ""},
		{"not text", "\xff\xfe", "\xff\xfe", ""},
		{"the longest", strings.Repeat("x", maxPassphrase) + "\n", strings.Repeat("x", maxPassphrase), ""},
		{"empty", "", "", "it is empty"},
		{"an empty line", "\n", "", "it is empty"},
		{"two lines", "a\nb\n", "", "more than one line"},
		{"two line ends", "a\n\n", "", "more than one line"},
		{"a NUL", "a\x00b", "", "more than one line"},
		{"too long", strings.Repeat("x", maxPassphrase+1), "", "longer than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "pass")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			fd, err := unix.Dup(int(f.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			for _, from := range []string{path, fmt.Sprintf("fd:%d", fd)} {
				got, err := newConsole().readPassphrase(cipher.LayerData, from, false)
				if tt.err != "" {
					if err == nil || !strings.Contains(err.Error(), tt.err) || codeOf(err) != exitUsage {
						t.Errorf("from %s: error %v, want %s", from, err, tt.err)
					}
					continue
				}
				if err != nil || string(got) != tt.want {
					t.Errorf("from %s: got %q, %v, want %q", from, got, err, tt.want)
				}
			}
		})
	}
	for _, from := range []string{"/does/not/exist", "fd:x", "fd:-1", "fd:"} {
		if _, err := newConsole().readPassphrase(cipher.LayerData, from, false); codeOf(err) != exitUsage {
			t.Errorf("from %s: error %v with code %d, want %d", from, err, codeOf(err), exitUsage)
		}
	}
}

// pty returns both ends of a pseudo-terminal.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close(); slave.Close() })
	return master, slave
}

// typist answers each question that ends in ": " with the next line, and
// collects what the terminal showed.
func typist(t *testing.T, master *os.File, lines ...string) (shown func() string) {
	t.Helper()
	var seen bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1024)
		for {
			n, err := master.Read(b)
			seen.Write(b[:n])
			if err != nil {
				return
			}
			if bytes.HasSuffix(seen.Bytes(), []byte(": ")) && len(lines) > 0 {
				io.WriteString(master, lines[0]+"\n")
				lines = lines[1:]
			}
		}
	}()
	return func() string {
		master.SetReadDeadline(time.Now())
		select {
		case <-done:
		case <-time.After(time.Second):
		}
		return seen.String()
	}
}

func TestAskPassphrase(t *testing.T) {
	tests := []struct {
		name  string
		isNew bool
		lines []string
		want  string
		err   string
	}{
		{"once", false, []string{"hunter2"}, "hunter2", ""},
		{"twice at creation", true, []string{"hunter2", "hunter2"}, "hunter2", ""},
		{"two that differ", true, []string{"hunter2", "hunter3"}, "", "differ"},
		{"nothing", false, []string{""}, "", "it is empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			master, slave := pty(t)
			shown := typist(t, master, tt.lines...)
			con := newConsole()
			con.tty = func() (*os.File, error) {
				fd, err := unix.Dup(int(slave.Fd()))
				return os.NewFile(uintptr(fd), "tty"), err
			}
			got, err := con.readPassphrase(cipher.LayerInfra, "", tt.isNew)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %s", err, tt.err)
				}
			} else if err != nil || string(got) != tt.want {
				t.Errorf("got %q, %v", got, err)
			}
			screen := shown()
			wantText(t, "the terminal", screen, "infra layer")
			if strings.Contains(screen, "hunter") {
				t.Errorf("the passphrase was echoed: %q", screen)
			}
		})
	}
}

func TestAskPassphraseWithoutTerminal(t *testing.T) {
	con := newConsole()
	con.tty = func() (*os.File, error) { return nil, unix.ENXIO }
	_, err := con.readPassphrase(cipher.LayerData, "", false)
	if codeOf(err) != exitUsage {
		t.Fatalf("error %v", err)
	}
	wantText(t, "the hint", hintOf(err), "--data-passphrase-file FILE")
}

// A program is run for a passphrase with the layer's name, without a shell,
// and refused where others could have written it.
func TestPassphraseFromProgram(t *testing.T) {
	dir := t.TempDir()
	program := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := []struct {
		name, path, want, err string
		code                  exitCode
	}{
		{"a passphrase", program("good", `echo "secret of $1 $#"`, 0o700), "secret of infra 1", "", 0},
		{"blanks in its path", program("a b; false", "echo x", 0o755), "x", "", 0},
		{"no input", program("input", "cat; echo y", 0o700), "y", "", 0},
		{"one that fails", program("bad", "echo half; exit 7", 0o700), "", "exit status 7", exitFailure},
		{"one that prints nothing", program("empty", "true", 0o700), "", "it is empty", exitUsage},
		{"one that prints without end", program("yes", "yes | tr -d '\\n'", 0o700), "", "longer than", exitUsage},
		{"one that others can write", program("open", "echo x", 0o722), "", "others can write to it", exitUsage},
		{"one that is not there", filepath.Join(dir, "none"), "", "no such file", exitUsage},
		{"a relative path", "good", "", "not absolute", exitUsage},
		{"a directory", dir, "", "it is not a file", exitUsage},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			con := newConsole()
			con.stderr = io.Discard
			got, err := con.readPassphrase(cipher.LayerInfra, "program:"+tt.path, false)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || codeOf(err) != tt.code || strings.Contains(err.Error(), "half") {
					t.Errorf("error %v with code %d, want %s with %d", err, codeOf(err), tt.err, tt.code)
				}
			} else if err != nil || string(got) != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// A credential is found by its name, or by the layer's.
func TestPassphraseFromCredential(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"infra-passphrase": "of infra\n", "mine": "of mine"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	con := newConsole()
	con.tty = func() (*os.File, error) { return nil, unix.ENXIO }
	con.getenv = func(name string) string {
		if name == "CREDENTIALS_DIRECTORY" {
			return dir
		}
		return ""
	}
	tests := []struct {
		name  string
		layer cipher.Layer
		from  string
		isNew bool
		want  string
		err   string
	}{
		{"by the layer's name", cipher.LayerInfra, "", false, "of infra", ""},
		{"by its own", cipher.LayerInfra, "credential:mine", false, "of mine", ""},
		{"none of the layer's name", cipher.LayerData, "", false, "", "no terminal to ask at"},
		{"not for a new one, unless named", cipher.LayerInfra, "", true, "", "no terminal to ask at"},
		{"not there", cipher.LayerData, "credential:x", false, "", "no such file"},
		{"another directory", cipher.LayerData, "credential:../mine", false, "", "cannot be the name"},
		{"no name", cipher.LayerData, "credential:", false, "", "cannot be the name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := con.readPassphrase(tt.layer, tt.from, tt.isNew)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || codeOf(err) != exitUsage {
					t.Errorf("error %v, want %s", err, tt.err)
				}
			} else if err != nil || string(got) != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
	con.getenv = func(string) string { return "" }
	if _, err := con.readPassphrase(cipher.LayerInfra, "credential:mine", false); codeOf(err) != exitUsage {
		t.Errorf("without credentials: %v", err)
	}
}
