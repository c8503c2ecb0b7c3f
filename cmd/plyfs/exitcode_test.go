package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/keystore"
)

// Scripts rely on these numbers: rows are added at the end, never changed.
func TestExitCodesAreFrozen(t *testing.T) {
	want := []string{"ok", "failure", "usage", "wrong-key", "tampered", "busy", "not-a-volume", "version",
		"unknown-group", "exists", "io", "mount-failed", "assertion", "not-mounted",
		"retired", "denied", "unavailable"}
	if len(exitCodes) < len(want) {
		t.Fatalf("%d exit codes, want at least %d", len(exitCodes), len(want))
	}
	for i, e := range exitCodes {
		if int(e.code) != i {
			t.Errorf("row %d has code %d", i, e.code)
		}
		if i < len(want) && e.name != want[i] {
			t.Errorf("code %d is %s, want %s", i, e.name, want[i])
		}
		if e.meaning == "" {
			t.Errorf("code %d has no meaning", i)
		}
	}
}

func TestCodeOf(t *testing.T) {
	tests := []struct {
		err   error
		want  exitCode
		mount int
	}{
		{nil, exitOK, 0},
		{errors.New("anything"), exitFailure, 32},
		{&mountopt.OptionError{Option: "x", Err: mountopt.ErrUnknown}, exitUsage, 1},
		{mountopt.ErrSecret, exitUsage, 1},
		{keystore.ErrName, exitUsage, 1},
		{keystore.ErrWrongKey, exitWrongKey, 32},
		{keystore.ErrTampered, exitTampered, 32},
		{keystore.ErrTruncated, exitTampered, 32},
		{cipher.ErrAuth, exitTampered, 32},
		{keystore.ErrBusy, exitBusy, 32},
		{unix.EBUSY, exitBusy, 32},
		{keystore.ErrMissing, exitNotVolume, 32},
		{keystore.ErrVersion, exitVersion, 32},
		{cipher.ErrSuite, exitVersion, 32},
		{keystore.ErrWrongGroup, exitNoGroup, 32},
		{keystore.ErrExists, exitExists, 32},
		{&os.PathError{Op: "mkdir", Path: "x", Err: unix.EEXIST}, exitExists, 32},
		{&os.PathError{Op: "write", Path: "x", Err: unix.ENOSPC}, exitIO, 2},
		{unix.EIO, exitIO, 2},
		{keystore.ErrWrongLayers, exitAssertion, 32},
		{errNotMounted("/m", ""), exitNotMounted, 32},
		{&problem{err: unix.EIO, code: exitMount}, exitMount, 32},
		{errInterrupted, exitFailure, 8},
		{errSilent, exitFailure, 4},
	}
	for _, tt := range tests {
		for _, err := range []error{tt.err, fmt.Errorf("more words: %w", tt.err)} {
			if tt.err == nil {
				err = nil
			}
			if got := codeOf(err); got != tt.want {
				t.Errorf("codeOf(%v) = %d, want %d", err, got, tt.want)
			}
			if got := mountCode(err); got != tt.mount {
				t.Errorf("mountCode(%v) = %d, want %d", err, got, tt.mount)
			}
		}
	}
}

func TestHintOf(t *testing.T) {
	tests := []struct {
		err  error
		want string
	}{
		{errors.New("anything"), ""},
		{&problem{err: errors.New("x"), hint: "do this"}, "do this"},
		{&mountopt.OptionError{Option: "x", Nearest: "y", Err: mountopt.ErrUnknown}, "did you mean y?"},
		{&mountopt.OptionError{Option: "pass", Err: mountopt.ErrSecret}, "name a file that holds it, or a program that prints it: data-passphrase-file=FILE, data-passphrase-program=PATH, infra-passphrase-file=FILE, ...; options can be read by everybody"},
		{fmt.Errorf("x: %w", keystore.ErrBusy), keystore.Hint(keystore.ErrBusy)},
	}
	for _, tt := range tests {
		if got := hintOf(tt.err); got != tt.want {
			t.Errorf("hintOf(%v) = %q, want %q", tt.err, got, tt.want)
		}
	}
}

// Each code stands in the manual with its name and its meaning.
func TestManualListsExitCodes(t *testing.T) {
	b, err := os.ReadFile("man/plyfs.1")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(b)), " ")
	for _, e := range exitCodes {
		want := fmt.Sprintf(".It %d ( %s ) %s", e.code, e.name, e.meaning)
		if got := strings.NewReplacer(" Pq ", " ( ", " ; ", "; ").Replace(text); !strings.Contains(got, strings.ReplaceAll(want, " ( "+e.name+" )", " ( "+e.name)) {
			t.Errorf("man/plyfs.1 lacks %q", want)
		}
	}
}
