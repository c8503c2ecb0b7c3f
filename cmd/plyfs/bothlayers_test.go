package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// auditLines are the lines of an audit log that are of an event.
func (b *bench) auditLines(path, event string) (lines []auditEvent) {
	b.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var e auditEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			b.t.Fatalf("%q: %v", line, err)
		}
		if e.Event == event {
			lines = append(lines, e)
		}
	}
	return lines
}

// exchange puts the key file of other key stores in the place of a layer's.
func (b *bench) exchange(layer string) (back func()) {
	b.t.Helper()
	other := newBench(b.t)
	other.run(exitOK, "keystore", "init")
	path := filepath.Join(b.keys, layer+".key")
	key, err := os.ReadFile(filepath.Join(other.keys, layer+".key"))
	if err != nil {
		b.t.Fatal(err)
	}
	back = b.hide(path)
	if err := os.WriteFile(path, key, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return back
}

// What is wrong with the second layer is told together with what is wrong with
// the first one, each with what to do about it.
func TestBothLayersAreTold(t *testing.T) {
	b := withVolume(t)
	audit := filepath.Join(b.dir, "audit")
	b.mount("-o", "revalidate=1h,grace=1h,audit="+audit)
	b.write("f", "content")

	infraBack := b.hide(filepath.Join(b.keys, "infra.key"))
	wantText(t, "revalidate", b.run(exitOK, "revalidate", b.mnt).stdout, "Available", "infra.key")
	dataBack := b.exchange("data")
	r := b.run(exitInaccessible, "revalidate", b.mnt)
	wantText(t, "revalidate", r.stderr, "data.store", "wrong key", "infra.key", "missing", "hint: data layer: ", "hint: infra layer: ")
	if s := b.keyState(); !strings.Contains(s.Layers[0].Error, "wrong key") || strings.Contains(s.Layers[0].Error, "infra") ||
		!strings.Contains(s.Layers[1].Error, "missing") || strings.Contains(s.Layers[1].Error, "data") {
		t.Errorf("each layer's state: %+v", s.Layers)
	}
	for _, command := range [][]string{{"mount", "-o", "audit=" + audit, b.cipher, b.mnt}, {"key", "test", b.cipher}, {"key", "rotate", b.cipher}} {
		if command[0] == "mount" {
			b.run(exitOK, "umount", b.mnt)
		}
		r := b.run(exitWrongKey, command...)
		wantText(t, command[0], r.stderr, "data.store", "wrong key", "infra.key", "missing", "hint: data layer: ", "hint: infra layer: ")
		if n := strings.Count(r.stderr, "plyfs: error: "); n != 1 {
			t.Errorf("%d errors:\n%s", n, r.stderr)
		}
	}
	wantText(t, "key test", b.run(exitWrongKey, "key", "test", b.cipher).stdout, "data layer, slot 1: failed", "infra layer, slot 1: failed")

	for _, event := range []string{"unlock", "revalidate"} {
		lines := b.auditLines(audit, event)
		if len(lines) < 2 {
			t.Fatalf("%s: %+v", event, lines)
		}
		last := lines[len(lines)-2:]
		if last[0].Layer != 1 || last[0].Result != auditDenied || last[1].Layer != 2 || last[1].Result != auditUnknown {
			t.Errorf("%s: %+v", event, last)
		}
	}

	if err := os.Remove(filepath.Join(b.keys, "data.key")); err != nil {
		t.Fatal(err)
	}
	dataBack()
	wantText(t, "key test", b.run(exitNotVolume, "key", "test", b.cipher).stdout, "data layer, slot 1: ok", "infra layer, slot 1: failed")
	infraBack()
	b.mount()
	b.wantFile("f", "content")
}

// A layer that could not be asked for does not hide that the other is refused.
func TestRefusalCountsOverNoAnswer(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	cmk := b.provider("kms")
	b.run(exitOK, "keystore", "init")
	b.volume("--provider", "kms")
	b.mount("-o", "revalidate=1h,grace=1h")
	if err := os.Rename(cmk, cmk+".away"); err != nil {
		t.Fatal(err)
	}
	b.run(exitOK, "revalidate", b.mnt)
	b.exchange("infra")
	wantText(t, "revalidate", b.run(exitInaccessible, "revalidate", b.mnt).stdout, "kms", "wrong key")
	b.run(exitOK, "umount", b.mnt)
	b.run(exitWrongKey, "mount", b.cipher, b.mnt)
	b.run(exitWrongKey, "key", "test", b.cipher)
}

// Passphrases that are not there are told together, before anything is started.
func TestBothPassphrasesAreTold(t *testing.T) {
	b := newBench(t)
	pass := b.file("pass", "a long enough passphrase")
	b.run(exitOK, "keystore", "init", "--data-passphrase-file", pass, "--infra-passphrase-file", pass)
	b.volume("--data-passphrase-file", pass, "--infra-passphrase-file", pass)
	r := b.run(exitUsage, "mount", b.cipher, b.mnt)
	wantText(t, "mount", r.stderr, "data layer", "infra layer", "--data-passphrase-file", "--infra-passphrase-file")
	r = b.run(exitUsage, "mount", "--data-passphrase-file", pass, b.cipher, b.mnt)
	if strings.Contains(r.stderr, "data layer") {
		t.Errorf("it is told of a layer that nothing is wrong with:\n%s", r.stderr)
	}
	wrong := b.file("wrong", "another passphrase")
	r = b.run(exitWrongKey, "mount", "--data-passphrase-file", wrong, "--infra-passphrase-file", wrong, b.cipher, b.mnt)
	wantText(t, "mount", r.stderr, "data.store", "infra.store")
}
