package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// scenarios are the four kinds of volumes that a user can choose.
var scenarios = []struct {
	name        string
	init, mount []string
	provider    bool // a customer-managed key on layer 1
}{
	{"scenario-1", []string{"--single-layer"}, []string{"-o", "layers=1"}, false},
	{"scenario-2", nil, nil, false},
	{"scenario-3", []string{"--single-layer"}, []string{"-o", "layers=1"}, true},
	{"scenario-4", nil, nil, true},
}

// keyProgram is a key service for measuring: it keeps nothing secret. A real one
// takes longer to answer, at the mount and at each validation of the keys.
const keyProgram = `#!/bin/sh
read -r line
member() { printf %s "$line" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
id=$(member id) secret=$(member secret) wrapped=$(member wrapped)
if [ -n "$secret" ]; then
	printf '{"plyfs_key":1,"id":"%s","wrapped":"%s"}\n' "$id" "$secret"
else
	printf '{"plyfs_key":1,"id":"%s","secret":"%s"}\n' "$id" "$wrapped"
fi
`

// addScenarios adds a volume of each scenario.
func (r *rig) addScenarios(bin string) error {
	dir := filepath.Join(r.scratch, "providers")
	err := errors.Join(
		os.Mkdir(dir, 0o700),
		os.WriteFile(filepath.Join(dir, "plyfs-key-open"), []byte(keyProgram), 0o700),
		os.WriteFile(filepath.Join(dir, "cmk.json"), []byte(`{"program":"open"}`), 0o600))
	if err != nil {
		return fmt.Errorf("key provider: %w", err)
	}
	r.path = dir
	for _, s := range scenarios {
		init, mount := s.init, s.mount
		if s.provider {
			init = append([]string{"--provider", "cmk", "--providers", dir}, init...)
			mount = append([]string{"--providers", dir}, mount...)
		}
		if err := r.addPlyfs(s.name, bin, init, mount); err != nil {
			return err
		}
	}
	return nil
}
