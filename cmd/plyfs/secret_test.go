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
