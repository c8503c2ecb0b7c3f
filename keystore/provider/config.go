package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/plyfs/plyfs/keystore"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
	"golang.org/x/sys/unix"
)

// Limits and defaults of a provider's file.
const (
	maxConfig      = 32 << 10 // bytes
	defaultTimeout = 10 * time.Second
	minTimeout     = 100 * time.Millisecond
	maxTimeout     = 5 * time.Minute
	defaultTries   = 3
	maxTries       = 10
)

// config is a provider's file.
type config struct {
	Program  string          `json:"program"`  // "cloud": plyfs-key-cloud
	Settings json.RawMessage `json:"settings"` // for the program; plyfs does not look into them
	Env      []string        `json:"env"`      // NAME, PREFIX* or NAME=VALUE
	Timeout  string          `json:"timeout"`  // of one try, as in "10s"
	Tries    int             `json:"tries"`

	timeout time.Duration
}

// readConfig reads the file of a provider, which nobody but its owner, root or the caller, can have written.
func readConfig(path string) (*config, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this host has no provider file %s: %w", path, keystore.ErrMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("provider file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("provider file: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("provider file %s is not a regular file: %w", path, keystore.ErrUsage)
	}
	if err := onlyOwnerWrites("provider file "+path, st); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if st, err = os.Stat(dir); err != nil {
		return nil, fmt.Errorf("directory of providers: %w", err)
	}
	if err := onlyOwnerWrites("directory of providers "+dir, st); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("provider file: %w", err)
	}
	c, err := parseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("provider file %s: %w: %w", path, keystore.ErrUsage, err)
	}
	return c, nil
}

// onlyOwnerWrites returns ErrPermissions unless root or the caller owns what st is of, and nobody else can write it.
func onlyOwnerWrites(what string, st fs.FileInfo) error {
	if err := ownOrRoots(what, st); err != nil {
		return err
	}
	if st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s has mode %04o and can be written by others: %w", what, st.Mode().Perm(), keystore.ErrPermissions)
	}
	return nil
}

// ownOrRoots returns ErrPermissions for what belongs to another user than root and the one who runs plyfs.
func ownOrRoots(what string, st fs.FileInfo) error {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || sys.Uid != 0 && int(sys.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs neither to root nor to the user who runs plyfs: %w", what, keystore.ErrPermissions)
	}
	return nil
}

// parseConfig decodes and checks the text of a provider's file.
func parseConfig(raw []byte) (*config, error) {
	if len(raw) > maxConfig {
		return nil, fmt.Errorf("more than %d bytes", maxConfig)
	}
	c := &config{Tries: defaultTries, timeout: defaultTimeout}
	if err := protocol.DecodeStrict(raw, c); err != nil {
		return nil, err
	}
	if !validName(c.Program) {
		return nil, fmt.Errorf("program %q is not a name of a-z, 0-9 and '-', such as \"cloud\" for plyfs-key-cloud", protocol.Line(c.Program, maxNameLen))
	}
	if c.Settings == nil {
		c.Settings = json.RawMessage("{}")
	}
	if !bytes.HasPrefix(bytes.TrimSpace(c.Settings), []byte("{")) {
		return nil, errors.New("settings is not an object")
	}
	for _, e := range c.Env {
		if err := checkEnv(e); err != nil {
			return nil, err
		}
	}
	if c.Timeout != "" {
		d, err := time.ParseDuration(c.Timeout)
		if err != nil || d < minTimeout || d > maxTimeout {
			return nil, fmt.Errorf("timeout %q is not a duration from %s to %s", protocol.Line(c.Timeout, maxNameLen), minTimeout, maxTimeout)
		}
		c.timeout = d
	}
	if c.Tries < 1 || c.Tries > maxTries {
		return nil, fmt.Errorf("tries is %d, not from 1 to %d", c.Tries, maxTries)
	}
	return c, nil
}

// checkEnv refuses what is no name of a variable, and those of the dynamic linker.
func checkEnv(e string) error {
	name, _, set := strings.Cut(e, "=")
	if !set {
		name = strings.TrimSuffix(name, "*")
	}
	if name == "" || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") != "" || linkerVariable(name) {
		return fmt.Errorf("env %q is not NAME, PREFIX* or NAME=VALUE", protocol.Line(name, maxNameLen))
	}
	return nil
}

func linkerVariable(name string) bool { return strings.HasPrefix(name, "LD_") }

// environ is all of the environment that the program gets: the path, and what the file names of have.
func (c *config) environ(have []string, path string) []string {
	env := []string{"PATH=" + path, "LC_ALL=C.UTF-8"}
	for _, e := range c.Env {
		if strings.Contains(e, "=") {
			env = append(env, e)
			continue
		}
		prefix, wild := strings.CutSuffix(e, "*")
		for _, variable := range have {
			name, _, _ := strings.Cut(variable, "=")
			if !linkerVariable(name) && (name == e || wild && strings.HasPrefix(name, prefix)) {
				env = append(env, variable)
			}
		}
	}
	return env
}

// findProgram looks a program up in the absolute directories of a search path. One that others can write is refused,
// and so is one in a directory that is another user's or that everybody can write.
func findProgram(name, path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		file := filepath.Join(dir, name)
		st, err := os.Stat(file)
		if err != nil || !st.Mode().IsRegular() || st.Mode().Perm()&0o111 == 0 {
			continue
		}
		if err := onlyOwnerWrites("program "+file, st); err != nil {
			return "", err
		}
		if st, err = os.Stat(dir); err != nil || st.Mode().Perm()&0o002 != 0 {
			return "", fmt.Errorf("program %s lies in a directory that everybody can write: %w", file, keystore.ErrPermissions)
		}
		if err := ownOrRoots("directory "+dir, st); err != nil {
			return "", err
		}
		return file, nil
	}
	return "", fmt.Errorf("program %s is nowhere on PATH (%s): %w", name, protocol.Line(path, protocol.MaxText), keystore.ErrUnavailable)
}
