package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/cmd/internal/dockervolume"
	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/keystore"
)

// exitCode is what a script sees. Numbers are append-only.
type exitCode int

const (
	exitOK         exitCode = 0
	exitFailure    exitCode = 1
	exitUsage      exitCode = 2
	exitWrongKey   exitCode = 3
	exitTampered   exitCode = 4
	exitBusy       exitCode = 5
	exitNotVolume  exitCode = 6
	exitVersion    exitCode = 7
	exitNoGroup    exitCode = 8
	exitExists     exitCode = 9
	exitIO         exitCode = 10
	exitMount      exitCode = 11
	exitAssertion  exitCode = 12
	exitNotMounted exitCode = 13

	exitRetired     exitCode = 14
	exitDenied      exitCode = 15
	exitUnavailable exitCode = 16

	exitInaccessible exitCode = 17
	exitNotFrozen    exitCode = 18
)

// exitCodes is the table that `plyfs help exit-codes` and plyfs(1) show.
var exitCodes = []struct {
	code    exitCode
	name    string
	meaning string
}{
	{exitOK, "ok", "the command did what was asked"},
	{exitFailure, "failure", "any failure that has no code of its own"},
	{exitUsage, "usage", "unknown command, flag or option, or a bad value"},
	{exitWrongKey, "wrong-key", "wrong key file, passphrase or key store"},
	{exitTampered, "tampered", "authentication failed: damaged or tampered with"},
	{exitBusy, "busy", "in use: mounted already, locked, or files are open"},
	{exitNotVolume, "not-a-volume", "not a plyfs volume, or a key store is missing"},
	{exitVersion, "version", "format version or suite not supported"},
	{exitNoGroup, "unknown-group", "unknown cluster or group"},
	{exitExists, "exists", "already exists; nothing is overwritten"},
	{exitIO, "io", "input/output error, or no space left"},
	{exitMount, "mount-failed", "the kernel refused the mount"},
	{exitAssertion, "assertion", "layers=, cluster= or group= do not hold"},
	{exitNotMounted, "not-mounted", "no plyfs volume is mounted there"},
	{exitRetired, "retired", "the key was retired or destroyed"},
	{exitDenied, "denied", "the key provider said no: key disabled, destroyed, or access denied"},
	{exitUnavailable, "unavailable", "the key provider could not be asked, or did not answer"},
	{exitInaccessible, "inaccessible", "the mounted volume is inaccessible: its keys were withdrawn"},
	{exitNotFrozen, "not-frozen", "the volume is not frozen, or was not until the command ended"},
}

// problem is an error that knows its exit code and what to do about it.
type problem struct {
	err  error
	code exitCode
	hint string
}

func (p *problem) Error() string { return p.err.Error() }
func (p *problem) Unwrap() error { return p.err }

// codes says which errors of the libraries mean which exit code; the first
// that matches counts.
var codes = []struct {
	err  error
	code exitCode
}{
	{mountopt.ErrUnknown, exitUsage},
	{mountopt.ErrValue, exitUsage},
	{mountopt.ErrRemount, exitUsage},
	{mountopt.ErrSecret, exitUsage},
	{mountopt.ErrArgs, exitUsage},
	{keystore.ErrName, exitUsage},
	{keystore.ErrUsage, exitUsage},
	{keystore.ErrDenied, exitDenied},
	{keystore.ErrRetired, exitRetired},
	{keystore.ErrUnavailable, exitUnavailable},
	{keystore.ErrWrongKey, exitWrongKey},
	{keystore.ErrWrongGroup, exitNoGroup},
	{keystore.ErrWrongLayers, exitAssertion},
	{keystore.ErrTampered, exitTampered},
	{keystore.ErrRolledBack, exitTampered},
	{keystore.ErrTruncated, exitTampered},
	{keystore.ErrMissing, exitNotVolume},
	{keystore.ErrVersion, exitVersion},
	{keystore.ErrExists, exitExists},
	{keystore.ErrStale, exitExists},
	{keystore.ErrBusy, exitBusy},
	{dockervolume.ErrServed, exitBusy},
	{cipher.ErrAuth, exitTampered},
	{cipher.ErrVersion, exitVersion},
	{cipher.ErrSuite, exitVersion},
	{unix.ENOSPC, exitIO},
	{unix.EDQUOT, exitIO},
	{unix.EIO, exitIO},
	{unix.EROFS, exitIO},
	{unix.EBUSY, exitBusy},
	{fs.ErrExist, exitExists},
}

// codeOf returns the exit code of an error. Of one about both layers it is that
// of the data layer, unless that layer's key just could not be asked for.
func codeOf(err error) exitCode {
	if err == nil {
		return exitOK
	}
	if of := bothLayers(err); of != nil {
		if code := codeOf(of[0]); code != exitUnavailable {
			return code
		}
		return codeOf(of[1])
	}
	var p *problem
	if errors.As(err, &p) {
		return p.code
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return exitFailure
}

// bothLayers are what an error says of each layer; nil if it is not about both,
// or knows its own exit code and hint.
func bothLayers(err error) []*keystore.LayerError {
	if _, own := err.(*problem); own {
		return nil
	}
	if of := keystore.LayerErrors(err); len(of) == 2 {
		return of
	}
	return nil
}

// hintOf returns what to do about an error, or ""; about both layers a line for
// each.
func hintOf(err error) string {
	if of := bothLayers(err); of != nil {
		return layerHints(hintOf(of[0]), hintOf(of[1]))
	}
	var p *problem
	if errors.As(err, &p) && p.hint != "" {
		return p.hint
	}
	var o *mountopt.OptionError
	if errors.As(err, &o) {
		switch {
		case o.Nearest != "":
			return "did you mean " + o.Nearest + "?"
		case errors.Is(err, mountopt.ErrSecret):
			return "name a file that holds it, or a program that prints it: data-passphrase-file=FILE, data-passphrase-program=PATH, " +
				"infra-passphrase-file=FILE, ...; options can be read by everybody"
		}
	}
	if h := keystore.Hint(err); h != "" {
		return h
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "make room there, and repeat the command"
	case errors.Is(err, unix.EROFS):
		return "the filesystem there is read-only; a volume on it mounts with -o ro"
	}
	return ""
}

// layerHints are the hints for both layers in one.
func layerHints(data, infra string) string {
	if data == infra {
		return data
	}
	var lines []string
	for i, h := range []string{data, infra} {
		if h != "" {
			lines = append(lines, fmt.Sprintf("%s layer: %s", cipher.Layer(i+1), h))
		}
	}
	return strings.Join(lines, "\n")
}

// mountCode turns an error into the exit code that mount(8) expects of a
// helper: 1 wrong invocation, 2 system error, 4 internal bug, 8 interrupted, 32
// mount failure. 16, about /etc/mtab, has no use here.
func mountCode(err error) int {
	switch {
	case errors.Is(err, errInterrupted):
		return 8
	case errors.Is(err, errSilent):
		return 4
	}
	switch codeOf(err) {
	case exitOK:
		return 0
	case exitUsage:
		return 1
	case exitIO:
		return 2
	}
	return 32
}
