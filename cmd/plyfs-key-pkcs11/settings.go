package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// settings are those of a provider's file. Key is expanded.
type settings struct {
	Module        string `json:"module"`         // path of the maker's library
	Token         string `json:"token"`          // its label
	Key           string `json:"key"`            // template: label of the AES key
	PINFile       string `json:"pin_file"`       // the user's PIN
	PINCredential string `json:"pin_credential"` // the same as a systemd credential, with CREDENTIALS_DIRECTORY passed on
}

const maxPIN = 256 // bytes

func parseSettings(raw json.RawMessage, n protocol.Names) (*settings, error) {
	var s settings
	err := protocol.Settings(raw, &s)
	if err != nil {
		return nil, err
	}
	for _, m := range []struct{ name, value string }{{"module", s.Module}, {"token", s.Token}, {"key", s.Key}} {
		if m.value == "" {
			return nil, protocol.Usage("settings: no %s", m.name)
		}
	}
	if !filepath.IsAbs(s.Module) {
		return nil, protocol.Usage("settings: module is not an absolute path")
	}
	if (s.PINFile == "") == (s.PINCredential == "") {
		return nil, protocol.Usage("settings: give one of pin_file and pin_credential")
	}
	if s.PINFile != "" && !filepath.IsAbs(s.PINFile) {
		return nil, protocol.Usage("settings: pin_file is not an absolute path")
	}
	if strings.ContainsAny(s.PINCredential, "/") || strings.HasPrefix(s.PINCredential, ".") {
		return nil, protocol.Usage("settings: pin_credential is not a name")
	}
	if s.Key, err = protocol.Expand(s.Key, n); err != nil {
		return nil, err
	}
	return &s, nil
}

// checkModule refuses a library that others can write, since it runs in this process.
func (s *settings) checkModule() error {
	st, err := os.Stat(s.Module)
	if err != nil {
		return fmt.Errorf("module: %w", err)
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.Mode().IsRegular() || st.Mode().Perm()&0o022 != 0 || sys.Uid != 0 && int(sys.Uid) != os.Geteuid() {
		return protocol.Usage("module %s is not a file that root or this user alone can write", s.Module)
	}
	return nil
}

// pin reads the PIN. The caller wipes it.
func (s *settings) pin() ([]byte, error) {
	path := s.PINFile
	if s.PINCredential != "" {
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, protocol.Usage("no CREDENTIALS_DIRECTORY here: pass it on with env in the provider's file, and mount from a unit with LoadCredential=")
		}
		path = filepath.Join(dir, s.PINCredential)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("PIN: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("PIN: %w", err)
	}
	// systemd shows a credential to the service's user alone, through an ACL that looks like a mode of the group.
	if !st.Mode().IsRegular() || s.PINFile != "" && st.Mode().Perm()&0o077 != 0 {
		return nil, protocol.Usage("PIN file %s has mode %04o and can be read by others", path, st.Mode().Perm())
	}
	pin, err := io.ReadAll(io.LimitReader(f, maxPIN+1))
	if err != nil {
		return nil, fmt.Errorf("PIN: %w", err)
	}
	pin = bytes.TrimRight(pin, "\r\n")
	if len(pin) == 0 || len(pin) > maxPIN {
		clear(pin)
		return nil, protocol.Usage("PIN file %s holds no PIN of 1 to %d bytes", path, maxPIN)
	}
	return pin, nil
}
