package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// slots lists a volume's slots: "group prod/db-1 1/1/1", by layer.
func (b *bench) slots(volume string, args ...string) [][]string {
	b.t.Helper()
	r := b.run(exitOK, append([]string{"key", "ls", "--json", volume}, args...)...)
	var layers []infoLayer
	if err := json.Unmarshal([]byte(r.stdout), &layers); err != nil {
		b.t.Fatal(err)
	}
	var all [][]string
	for _, l := range layers {
		var slots []string
		for _, s := range l.Slots {
			slots = append(slots, s.String())
		}
		all = append(all, slots)
	}
	return all
}

// wantSlots checks the slots of the data layer, each by what its text must hold.
func (b *bench) wantSlots(volume string, want ...string) {
	b.t.Helper()
	got := b.slots(volume)[0]
	if len(got) != len(want) {
		b.t.Fatalf("slots of the data layer: %q, want %q", got, want)
	}
	for i := range got {
		if !strings.Contains(got[i], want[i]) {
			b.t.Errorf("slot %d of the data layer: %q, want %q", i+1, got[i], want[i])
		}
	}
}

func (b *bench) sameConfigs(dir string) {
	b.t.Helper()
	one, err := os.ReadFile(filepath.Join(dir, "plyfs.json"))
	two, err2 := os.ReadFile(filepath.Join(dir, "plyfs.json.bak"))
	if err != nil || err2 != nil || string(one) != string(two) {
		b.t.Errorf("plyfs.json and its copy differ (%v, %v)", err, err2)
	}
}

// TestCustomerManagedKey puts a CMK on a volume and takes it off, live and not.
func TestCustomerManagedKey(t *testing.T) {
	needMounts(t)
	for _, live := range []bool{false, true} {
		b := newBench(t)
		b.run(exitOK, "keystore", "init", "--cluster", "prod", "--group", "db-1")
		cmk := b.provider("kms")
		b.volume("--cluster", "prod", "--group", "db-1")
		volume := b.cipher
		if live {
			b.mount()
			b.write("a", "through all of it")
			volume = b.mnt
		}
		b.run(exitUsage, "key", "add", "--layer", "data", volume)
		b.run(exitUsage, "key", "add", "--provider", "kms", volume)
		b.run(exitNotVolume, "key", "add", "--layer", "data", "--provider", "none", volume)
		os.WriteFile(cmk, []byte("disabled"), 0o600)
		b.run(exitDenied, "key", "add", "--layer", "data", "--provider", "kms", volume)
		os.Rename(cmk, cmk+".away")
		b.run(exitUnavailable, "key", "add", "--layer", "data", "--provider", "kms", volume)
		b.wantSlots(volume, "group: cluster prod, group db-1")
		os.WriteFile(cmk, []byte("v1"), 0o600)
		r := b.run(exitOK, "key", "add", "--layer", "data", "--provider", "kms", volume)
		wantText(t, "key add", r.stderr, "provider kms", "in the place of: group: cluster prod, group db-1")
		b.wantSlots(volume, "group+provider: cluster prod, group db-1")
		b.sameConfigs(b.cipher)
		b.run(exitOK, "key", "test", volume)
		if live {
			b.wantFile("a", "through all of it")
			b.run(exitOK, "revalidate", b.mnt)
			b.run(exitOK, "umount", b.mnt)
		}
		b.mount()
		b.write("b", "under the customer's key")
		wantText(t, "status", b.run(exitOK, "status", b.mnt).stdout, "customer-managed key of provider kms")
		b.run(exitOK, "umount", b.mnt)
		os.WriteFile(cmk, []byte("disabled"), 0o600)
		b.run(exitDenied, "mount", b.cipher, b.mnt)
		r = b.run(exitDenied, "key", "test", b.cipher)
		wantText(t, "key test", r.stdout, "data layer, slot 1: failed", "infra layer, slot 1: ok")
		b.run(exitDenied, "key", "add", "--layer", "data", "--group", "db-1", b.cipher) // it cannot be taken off without it
		os.Rename(cmk, cmk+".away")
		b.run(exitUnavailable, "mount", b.cipher, b.mnt)
		os.WriteFile(cmk, []byte("v1"), 0o600)
		volume = b.cipher
		if live {
			b.mount()
			volume = b.mnt
		}
		b.run(exitOK, "key", "add", "--layer", "data", "--group", "db-1", volume)
		b.wantSlots(volume, "group: cluster prod, group db-1")
		if live {
			b.run(exitOK, "umount", b.mnt)
		}
		os.Remove(cmk)
		b.mount()
		b.wantFile("b", "under the customer's key")
		b.run(exitOK, "umount", b.mnt)
	}
}

// TestInitWithProvider makes scenarios 3 and 4 from the start.
func TestInitWithProvider(t *testing.T) {
	needMounts(t)
	for _, layers := range []string{"1", "2"} {
		b := newBench(t)
		cmk := b.provider("kms")
		b.run(exitOK, "keystore", "init")
		args := []string{"--provider", "kms"}
		if layers == "1" {
			args = append(args, "--single-layer")
		}
		os.WriteFile(cmk, []byte("disabled"), 0o600)
		b.run(exitDenied, append(append([]string{"init"}, args...), b.cipher)...)
		if _, err := os.Stat(b.cipher); err == nil {
			t.Error("something was made")
		}
		os.WriteFile(cmk, []byte("v1"), 0o600)
		b.volume(args...)
		b.wantSlots(b.cipher, "group+provider")
		b.mount("-o", "layers="+layers)
		b.write("a", "x")
		b.wantFile("a", "x")
		b.run(exitOK, "umount", b.mnt)
		os.WriteFile(cmk, []byte("disabled"), 0o600)
		b.run(exitDenied, "mount", "-o", "layers="+layers, b.cipher, b.mnt)
	}
}

// TestMoveToAnotherGroup rotates keys and moves a live volume, and shows who can open it then.
func TestMoveToAnotherGroup(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	b.fleet()
	one, two := b.host("one", "prod", "db-1"), b.host("two", "stage", "db-2")
	b.volume("--cluster", "prod", "--group", "db-1")
	b.mount()
	b.write("a", "stays")
	b.run(exitOK, "keystore", "rotate", "--cluster", "prod")
	b.run(exitOK, "key", "rotate", b.mnt)
	for _, l := range b.slots(b.mnt) {
		if len(l) != 1 || !strings.Contains(l[0], "epochs 1/2/1") {
			t.Errorf("after the rotation: %q", l)
		}
	}
	b.run(exitOK, "keystore", "retire", "--cluster", "prod", "--epoch", "1")
	b.run(exitNoGroup, "key", "rotate", "--group", "none", b.mnt)
	b.run(exitNoGroup, "key", "rotate", "--keystore", two, b.mnt)
	b.run(exitOK, "umount", b.mnt)
	b.run(exitWrongKey, "mount", "--keystore", one, b.cipher, b.mnt) // an older bundle
	b.update(one, "one", "prod", "db-1")
	b.run(exitOK, "mount", "--keystore", one, b.cipher, b.mnt)
	r := b.run(exitOK, "key", "rotate", "--cluster", "stage", "--group", "db-2", b.mnt)
	wantText(t, "key rotate", r.stderr, "cluster stage, group db-2")
	b.wantFile("a", "stays")
	b.run(exitOK, "umount", b.mnt)
	b.sameConfigs(b.cipher)
	b.run(exitNoGroup, "mount", "--keystore", one, b.cipher, b.mnt)
	b.run(exitOK, "mount", "--keystore", two, b.cipher, b.mnt)
	b.wantFile("a", "stays")
	b.run(exitOK, "umount", b.mnt)
	b.run(exitOK, "keystore", "retire", "--cluster", "stage", "--group", "db-2")
	b.update(one, "one", "prod", "db-1")
	b.run(exitRetired, "mount", b.cipher, b.mnt)
}

// TestOlderConfigIsRefused puts back the config from before a change of keys.
func TestOlderConfigIsRefused(t *testing.T) {
	b := withVolume(t)
	old, err := os.ReadFile(filepath.Join(b.cipher, "plyfs.json"))
	if err != nil {
		t.Fatal(err)
	}
	b.mount()
	b.run(exitOK, "key", "rotate", b.mnt)
	b.run(exitOK, "umount", b.mnt)
	b.file("cipher/plyfs.json", string(old))
	b.run(exitOK, "mount", "-o", "ro", b.cipher, b.mnt) // its copy is newer
	b.run(exitOK, "umount", b.mnt)
	if now, err := os.ReadFile(filepath.Join(b.cipher, "plyfs.json")); err != nil || string(now) != string(old) {
		t.Errorf("a read-only mount wrote the config (%v)", err)
	}
	b.mount()
	b.run(exitOK, "umount", b.mnt)
	b.sameConfigs(b.cipher)
	b.file("cipher/plyfs.json", string(old))
	b.file("cipher/plyfs.json.bak", string(old))
	r := b.run(exitTampered, "mount", b.cipher, b.mnt)
	wantText(t, "mount", r.stderr, "generation 1, and this host has seen 2", "accept-rollback=keys")
	b.run(exitTampered, "key", "rotate", b.cipher)
	b.run(exitTampered, "mount", "-o", "accept-rollback=journal", b.cipher, b.mnt)
	b.run(exitOK, "mount", "-o", "accept-rollback=keys", b.cipher, b.mnt)
	b.run(exitOK, "umount", b.mnt)
	b.mount()
	b.run(exitOK, "umount", b.mnt)
}

// TestRecovery opens a volume without any key store.
func TestRecovery(t *testing.T) {
	b := withVolume(t)
	data, infra := b.file("d", "data passphrase\n"), b.file("i", "infra passphrase\n")
	b.mount()
	b.run(exitOK, "key", "add", "--layer", "data", "--new-recovery", "safe", "--new-passphrase-file", data, b.mnt)
	b.run(exitOK, "key", "add", "--layer", "infra", "--new-recovery", "safe", "--new-passphrase-file", infra, b.mnt)
	b.run(exitExists, "key", "add", "--layer", "data", "--new-recovery", "safe", "--new-passphrase-file", data, b.mnt)
	b.run(exitUsage, "key", "add", "--layer", "data", "--new-recovery", "No", "--new-passphrase-file", data, b.mnt)
	b.run(exitUsage, "key", "add", "--layer", "data", "--new-recovery", "other", b.mnt)
	b.write("a", "x")
	b.wantSlots(b.mnt, "group", "recovery slot safe")
	b.run(exitOK, "umount", b.mnt)
	both := []string{"--data-passphrase-file", data, "--infra-passphrase-file", infra}
	r := b.run(exitOK, append([]string{"key", "test", "--recovery", "safe", b.cipher}, both...)...)
	if n := strings.Count(r.stdout, ": ok: "); n != 4 {
		t.Errorf("key test with stores: %s", r.stdout)
	}
	if err := os.RemoveAll(b.keys); err != nil {
		t.Fatal(err)
	}
	// A store's slots are passed over where a passphrase takes its place.
	r = b.run(exitWrongKey, append([]string{"key", "test", "--recovery", "safe", b.cipher}, "--data-passphrase-file", data, "--infra-passphrase-file", data)...)
	if strings.Count(r.stdout, ": ok: ") != 1 || strings.Count(r.stdout, ": skipped: ") != 2 || strings.Count(r.stdout, ": failed: ") != 1 {
		t.Errorf("key test without stores: %s", r.stdout)
	}
	b.run(exitNotVolume, "mount", b.cipher, b.mnt)
	b.run(exitUsage, append([]string{"mount", "-o", "recovery=none", b.cipher, b.mnt}, both...)...)
	b.run(exitUsage, "mount", "-o", "recovery=safe", b.cipher, b.mnt) // no terminal
	b.run(exitOK, append([]string{"mount", "-o", "recovery=safe", b.cipher, b.mnt}, both...)...)
	b.wantFile("a", "x")
	wantText(t, "status", b.run(exitOK, "status", b.mnt).stdout, "recovery slot safe", "recovery slot safe opens the infra layer", "cluster default, group default")
	b.run(exitOK, "umount", b.mnt)
	// New key stores take the place of the lost ones.
	b.run(exitOK, "keystore", "init")
	b.run(exitWrongKey, "mount", b.cipher, b.mnt)
	b.run(exitOK, append([]string{"key", "rotate", "--recovery", "safe", b.cipher}, both...)...)
	b.mount()
	b.wantFile("a", "x")
	b.run(exitOK, "umount", b.mnt)
}

// TestRemoveAndErase takes slots away, and the last one only on purpose.
func TestRemoveAndErase(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	b.fleet()
	b.volume("--cluster", "prod", "--group", "db-1")
	rm := func(want exitCode, args ...string) result {
		return b.run(want, append([]string{"key", "rm", "--layer", "data", b.cipher}, args...)...)
	}
	rm(exitUsage)
	rm(exitUsage, "--slot", "2")
	rm(exitUsage, "--slot", "0")
	wantText(t, "the last slot", rm(exitUsage, "--slot", "1").stderr, "last slot", "--destroy")
	b.run(exitOK, "key", "add", "--layer", "data", "--group", "db-2", b.cipher)
	b.wantSlots(b.cipher, "group db-1", "group db-2")
	rm(exitOK, "--slot", "1")
	b.wantSlots(b.cipher, "group db-2")
	b.run(exitOK, "key", "add", "--layer", "data", "--new-recovery", "safe", "--new-passphrase-file", b.file("p", "x"), b.cipher)
	rm(exitUsage, "--slot", "1")
	rm(exitOK, "--slot", "2")
	old, err := os.ReadFile(filepath.Join(b.cipher, "plyfs.json"))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := os.Open(filepath.Join(b.cipher, "plyfs.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	b.file("cipher/plyfs.json.tmp-0123", string(old)) // of a change that crashed
	wantText(t, "no terminal", rm(exitUsage, "--slot", "1", "--destroy").stderr, "--yes")
	r := rm(exitOK, "--slot", "1", "--destroy", "--yes")
	wantText(t, "key rm", r.stderr, "erased", "backups, snapshots", "flash")
	b.sameConfigs(b.cipher)
	b.run(exitRetired, "mount", b.cipher, b.mnt)
	b.run(exitRetired, "key", "rotate", b.cipher)
	wantText(t, "info", b.run(exitOK, "info", b.cipher).stdout, "erased")
	if text, err := io.ReadAll(opened); err != nil || len(text) == 0 || strings.Trim(string(text), "\x00") != "" {
		t.Error("the old config was not overwritten")
	}
	if _, err := os.Stat(filepath.Join(b.cipher, "plyfs.json.tmp-0123")); err == nil {
		t.Error("a temporary file is left")
	}
}

// TestKeysOfALiveMount: its daemon writes its own config, so that another one that is named is refused.
func TestKeysOfALiveMount(t *testing.T) {
	b := withVolume(t)
	text, err := os.ReadFile(filepath.Join(b.cipher, "plyfs.json"))
	if err != nil {
		t.Fatal(err)
	}
	copied := b.file("copy.json", string(text))
	b.mount()
	rotate := func(want exitCode, volume, config string) result {
		return b.run(want, "key", "rotate", "--config", config, volume)
	}
	for _, volume := range []string{b.mnt, b.cipher} {
		wantText(t, "the copy", rotate(exitUsage, volume, copied).stderr, "is mounted with the config "+filepath.Join(b.cipher, "plyfs.json"), "leave out --config")
		b.run(exitUsage, "key", "rm", "--layer", "data", "--slot", "1", "--destroy", "--yes", "--config", copied, volume)
	}
	b.run(exitOK, "key", "test", "--config", copied, b.mnt)
	if err := os.Symlink(b.cipher, filepath.Join(b.dir, "link")); err != nil {
		t.Fatal(err)
	}
	rotate(exitOK, b.mnt, filepath.Join(b.dir, "link", "plyfs.json")) // the mount's own, by another name
	b.run(exitOK, "umount", b.mnt)
	os.RemoveAll(filepath.Join(b.dir, "state")) // the copy is older than the volume by now
	rotate(exitOK, b.cipher, copied)
	if now, err := os.ReadFile(copied); err != nil || string(now) == string(text) {
		t.Error("the copy was not changed", err)
	}
}

// TestEraseGoesOn repeats a key rm --destroy that was cut short, at each step.
func TestEraseGoesOn(t *testing.T) {
	b := newBench(t)
	b.volume()
	config := filepath.Join(b.cipher, "plyfs.json")
	old, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	destroy := []string{"key", "rm", "--layer", "infra", "--slot", "1", "--destroy", "--yes", b.cipher}
	b.run(exitOK, destroy...)
	next, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	zeros := strings.Repeat("\x00", len(old))
	for step, files := range []map[string]string{
		{"plyfs.json": string(old), "plyfs.json.bak": zeros, "plyfs.json.bak.tmp-1": string(next)},
		{"plyfs.json": string(old), "plyfs.json.bak": string(next)},
		{"plyfs.json": zeros, "plyfs.json.bak": string(next), "plyfs.json.tmp-1": string(next)},
		{"plyfs.json": string(next), "plyfs.json.bak": string(next), "plyfs.json.tmp-1": string(old)},
		{"plyfs.json": string(next), "plyfs.json.bak": string(next)},
	} {
		os.RemoveAll(filepath.Join(b.dir, "state")) // it has seen the end, which in these steps was not reached
		for name, text := range files {
			b.file("cipher/"+name, text)
		}
		wantText(t, "key rm", b.run(exitOK, destroy...).stderr, "erased the volume")
		for _, path := range []string{config, config + ".bak"} {
			if text, err := os.ReadFile(path); err != nil || string(text) != string(next) {
				t.Errorf("step %d: %s is not what was to be written", step, path)
			}
		}
		if left, err := filepath.Glob(config + "*.tmp-*"); err != nil || len(left) > 0 {
			t.Errorf("step %d: left: %v", step, left)
		}
	}
	b.run(exitRetired, "key", "rm", "--layer", "infra", "--slot", "1", "--yes", b.cipher)
	b.run(exitRetired, "key", "rm", "--layer", "data", "--slot", "1", "--destroy", "--yes", b.cipher)
	b.run(exitUsage, destroy[:7]...)
	wantText(t, "no terminal", b.run(exitUsage, append(destroy[:7:7], b.cipher)...).stderr, "--yes")
}

// TestCrashInAChangeOfKeys leaves what a change that was cut short leaves, at each step.
func TestCrashInAChangeOfKeys(t *testing.T) {
	b := newBench(t)
	b.volume()
	config := filepath.Join(b.cipher, "plyfs.json")
	old, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	b.run(exitOK, "key", "rotate", b.cipher)
	next, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	for step, files := range []map[string]string{
		{"plyfs.json": string(old), "plyfs.json.bak": string(old), "plyfs.json.bak.tmp-1": string(next[:99])},
		{"plyfs.json": string(old), "plyfs.json.bak": string(old), "plyfs.json.bak.tmp-1": string(next)},
		{"plyfs.json": string(old), "plyfs.json.bak": string(next)},
		{"plyfs.json": string(old), "plyfs.json.bak": string(next), "plyfs.json.tmp-1": string(next[:99])},
		{"plyfs.json": string(next), "plyfs.json.bak": string(next)},
	} {
		os.RemoveAll(filepath.Join(b.dir, "state")) // it has seen the next one, which in these steps was not written yet
		for name, text := range files {
			b.file("cipher/"+name, text)
		}
		b.run(exitOK, "key", "test", b.cipher)
		b.run(exitOK, "key", "rotate", b.cipher)
		b.sameConfigs(b.cipher)
		if t.Failed() {
			t.Fatalf("step %d", step)
		}
	}
}
