package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// addGocryptfs adds two volumes of gocryptfs: one as it is by default, of one
// layer; and one in another with its second cipher, two layers in two daemons.
func (r *rig) addGocryptfs() error {
	one, err := r.add("gocryptfs")
	if err != nil {
		return err
	}
	if err := one.mountGocryptfs(); err != nil {
		return err
	}
	two, err := r.add("gocryptfs-twice")
	if err != nil {
		return err
	}
	two.below = &target{name: "gocryptfs-below", backing: two.backing, dir: two.root("mid"), rig: r}
	if err := errors.Join(two.below.mkdirs(), two.below.mountGocryptfs()); err != nil {
		return err
	}
	two.backing = filepath.Join(two.below.dir, "back")
	return errors.Join(two.mkdirs(), two.mountGocryptfs("-xchacha"))
}

// mountGocryptfs makes a volume and mounts it. Its password is in a file
// near it, and cheap to stretch, for nobody reads what is written.
func (t *target) mountGocryptfs(init ...string) error {
	password := filepath.Join(t.rig.scratch, "gocryptfs-password")
	if err := os.WriteFile(password, []byte("for measuring\n"), 0o600); err != nil {
		return err
	}
	args := append([]string{"-init", "-q", "-scryptn", "10", "-passfile", password}, append(init, t.backing)...)
	if _, err := command("gocryptfs", args...); errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("no gocryptfs on the path; on Debian: apt-get install gocryptfs: %w", err)
	} else if err != nil {
		return err
	}
	t.start = []string{"gocryptfs", "-fg", "-q", "-passfile", password, t.backing, t.dir}
	return t.mount()
}
