package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/keystore"
)

// inMemory counts the copies of each secret, as it is and in base64, in all
// that a process may write.
func inMemory(t *testing.T, pid int, secrets map[string][]byte) map[string]int {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	found := map[string]int{}
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var may string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &may); err != nil || !strings.HasPrefix(may, "rw") {
			continue
		}
		b := make([]byte, to-from)
		n, _ := mem.ReadAt(b, from)
		for name, s := range secrets {
			encoded := base64.StdEncoding.EncodeToString(s)
			found[name] += bytes.Count(b[:n], s) + bytes.Count(b[:n], []byte(encoded[:len(encoded)-4]))
		}
	}
	return found
}

func (b *bench) volumeKeys() cipher.Keys {
	b.t.Helper()
	var stores [2]*keystore.Store
	for i, name := range []string{"data", "infra"} {
		s, err := keystore.OpenStore(filepath.Join(b.keys, name+".store"), cipher.Layer(i+1), keystore.Opener{KeyFile: filepath.Join(b.keys, name+".key")})
		if err != nil {
			b.t.Fatal(err)
		}
		defer s.Wipe()
		stores[i] = s
	}
	c, err := keystore.ReadConfig(filepath.Join(b.cipher, "plyfs.json"))
	if err != nil {
		b.t.Fatal(err)
	}
	u, err := c.Unlock(context.Background(), keystore.StoreAccess(stores[0], stores[1]))
	if err != nil {
		b.t.Fatal(err)
	}
	return u.Keys
}

// The keys of a volume that is inaccessible are in no process of its mount.
func TestKeysAreGoneFromMemory(t *testing.T) {
	b := withVolume(t)
	keys := b.volumeKeys()
	b.mount("-o", "revalidate=1h,grace=0")
	for range 5 {
		b.run(exitOK, "revalidate", b.mnt)
	}
	daemon := b.daemon().PID
	helper := keyHelperOf(t, daemon)
	secrets := map[string][]byte{"V1": keys.Data[:], "V2": keys.Infra[:]}
	defer b.hide(filepath.Join(b.keys, "infra.store"))()
	b.run(exitInaccessible, "revalidate", b.mnt)
	for who, pid := range map[string]int{"daemon": daemon, "helper": helper} {
		for name, n := range inMemory(t, pid, secrets) {
			if n > 0 {
				t.Errorf("%d copies of %s in the %s", n, name, who)
			}
		}
	}
}

// A passphrase that no validation needs is in no process of the mount.
func TestPassphraseIsGoneFromMemory(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	const text = "a long enough passphrase of the data layer"
	pass := b.file("pass", text)
	b.run(exitOK, "keystore", "init", "--data-passphrase-file", pass)
	b.volume("--data-passphrase-file", pass)
	b.mount("--data-passphrase-file", pass, "-o", "revalidate=0")
	daemon := b.daemon().PID
	for who, pid := range map[string]int{"daemon": daemon, "helper": keyHelperOf(t, daemon)} {
		if n := inMemory(t, pid, map[string][]byte{"it": []byte(text)})["it"]; n > 0 {
			t.Errorf("%d copies in the %s", n, who)
		}
	}
}
