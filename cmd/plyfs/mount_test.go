package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMountWriteUmountMountRead(t *testing.T) {
	b := withVolume(t)
	for _, form := range []struct {
		name string
		args []string
	}{
		{"plyfs", []string{"mount", b.cipher, b.mnt, "-o", "noexec"}},
		{"mount.plyfs", []string{b.cipher, b.mnt, "-sn", "-o", "rw,noexec,x-test,unheard=1"}},
		{"/sbin/mount.fuse.plyfs", []string{b.cipher, b.mnt, "-o", "noexec"}},
		{"plyfs", []string{b.cipher, b.mnt, "-o", "noexec,dev,suid"}}, // as mount.fuse3 does
	} {
		start := time.Now()
		if r := b.as(form.name, form.args...); r.code != 0 || r.stdout != "" {
			t.Fatalf("%s %v: %v", form.name, form.args, r)
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("%s took %v: does a daemon keep its caller's pipes?", form.name, took)
		}
		m, ok := b.entry()
		if !ok {
			t.Fatalf("%s %v: returned 0, and nothing is mounted", form.name, form.args)
		}
		if m.Type != "fuse.plyfs" || m.Source != b.cipher {
			t.Errorf("type %q, source %q", m.Type, m.Source)
		}
		options := strings.Split(m.Options, ",")
		for _, want := range []string{"nosuid", "nodev", "noexec", "allow_other", "default_permissions"} {
			if !slices.Contains(options, want) {
				t.Errorf("%s: options %s lack %s", form.name, m.Options, want)
			}
		}
		name := "file of " + filepath.Base(form.name) + strconv.Itoa(len(form.args))
		b.write(name, "content of "+name)
		b.run(exitOK, "umount", b.mnt)
		if _, ok := b.entry(); ok {
			t.Fatal("still mounted after umount")
		}
		b.mount()
		b.wantFile(name, "content of "+name)
		b.run(exitOK, "umount", b.mnt)
	}
}

func TestMountOptions(t *testing.T) {
	b := mounted(t, "-o", "suid,dev,noallow_other,noatime")
	m, _ := b.entry()
	for _, word := range []string{"nosuid", "nodev", "noexec", "allow_other"} {
		if slices.Contains(strings.Split(m.Options, ","), word) {
			t.Errorf("options %s have %s", m.Options, word)
		}
	}
	wantText(t, "options", m.Options, "noatime", "default_permissions")
	b.write("f", "x")
	b.run(exitOK, "umount", b.mnt)

	b.mount("-o", "ro")
	b.wantFile("f", "x")
	if err := os.WriteFile(filepath.Join(b.mnt, "g"), nil, 0o600); err == nil {
		t.Error("a read-only mount was written to")
	}
	b.run(exitOK, "umount", b.mnt)
}

func TestMountHelperFake(t *testing.T) {
	b := newBench(t)
	if r := b.as("mount.plyfs", b.cipher, b.mnt, "-fv"); r.code != 0 {
		t.Errorf("%v", r)
	}
	if _, ok := b.entry(); ok {
		t.Error("-f has mounted")
	}
	if r := b.as("mount.plyfs", b.cipher, b.mnt, "-o", "keystroe=/x"); r.code != 1 || !strings.Contains(r.stderr, "did you mean keystore?") {
		t.Errorf("%v", r)
	}
	if r := b.as("mount.plyfs", b.cipher, b.mnt); r.code != 32 {
		t.Errorf("a mount of nothing: %v", r)
	}
}

func TestMountRefuses(t *testing.T) {
	needMounts(t)
	tests := []struct {
		name    string
		prepare func(b *bench)
		args    []string
		code    exitCode
		text    string
	}{
		{"no volume", func(b *bench) { os.Mkdir(b.cipher, 0o700) }, nil, exitNotVolume, "is not a plyfs volume"},
		{"no directory", nil, nil, exitNotVolume, "no such file"},
		{"no mountpoint", func(b *bench) { b.volume(); os.Remove(b.mnt) }, nil, exitMount, "mountpoint"},
		{"a file as the mountpoint", func(b *bench) { b.volume(); os.Remove(b.mnt); b.file("mnt", "") }, nil, exitMount, "not a directory"},
		{"over its ciphertext", func(b *bench) { b.volume(); b.mnt = b.cipher }, nil, exitUsage, "one in the other"},
		{"around its ciphertext", func(b *bench) { b.volume(); b.mnt = b.dir }, nil, exitUsage, "one in the other"},
		{"another host's stores", func(b *bench) { b.volume(); os.RemoveAll(b.keys); b.run(exitOK, "keystore", "init") }, nil, exitWrongKey, ""},
		{"stores of another group", func(b *bench) {
			b.volume()
			os.RemoveAll(b.keys)
			b.run(exitOK, "keystore", "init", "--group", "other")
		}, nil, exitNoGroup, ""},
		{"a missing store", func(b *bench) { b.volume(); os.Remove(filepath.Join(b.keys, "infra.store")) }, nil, exitNotVolume, "infra.store"},
		{"a missing key file", func(b *bench) { b.volume(); os.Remove(filepath.Join(b.keys, "data.key")) }, nil, exitNotVolume, "data.key"},
		{"one layer where two are expected", func(b *bench) { b.volume("--single-layer") }, nil, exitAssertion, "-o layers=1"},
		{"two layers where one is expected", func(b *bench) { b.volume() }, []string{"-o", "layers=1"}, exitAssertion, "2 layers"},
		{"another cluster", func(b *bench) { b.volume() }, []string{"-o", "cluster=east"}, exitAssertion, `not "east"`},
		{"another group", func(b *bench) { b.volume() }, []string{"--group", "db"}, exitAssertion, `not "db"`},
		{"a changed config", func(b *bench) { b.volume(); tamperConfig(b) }, nil, exitTampered, ""},
		{"no journal", func(b *bench) { b.volume(); os.RemoveAll(filepath.Join(b.cipher, ".plyfs/journal")) }, nil, exitTampered, ""},
		{"a log that cannot be", func(b *bench) { b.volume() }, []string{"--log", "/proc/no/log"}, exitFailure, "log=FILE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			if tt.prepare != nil {
				tt.prepare(b)
			}
			for _, mode := range [][]string{{"mount"}, {"mount", "-f"}} {
				r := b.run(tt.code, append(append(mode, tt.args...), b.cipher, b.mnt)...)
				wantText(t, "standard error", r.stderr, tt.text, "plyfs: hint: "[:7])
			}
			if m, ok := b.entry(); ok && m.Type == fsType {
				t.Error("it is mounted all the same")
			}
		})
	}
}

// tamperConfig changes a digit in both copies of the config.
func tamperConfig(b *bench) {
	for _, name := range []string{"plyfs.json", "plyfs.json.bak"} {
		path := filepath.Join(b.cipher, name)
		text, err := os.ReadFile(path)
		if err != nil {
			b.t.Fatal(err)
		}
		i := len(text) / 2
		for !strings.ContainsRune("bcdefg", rune(text[i])) {
			i++
		}
		text[i]++
		if err := os.WriteFile(path, text, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
}

func TestMountTwice(t *testing.T) {
	b := mounted(t)
	r := b.run(exitBusy, "mount", b.cipher, b.mnt)
	wantText(t, "standard error", r.stderr, "is mounted at "+b.mnt+" already", "plyfs: hint: ")
	second := filepath.Join(b.dir, "second")
	if err := os.Mkdir(second, 0o755); err != nil {
		t.Fatal(err)
	}
	b.run(exitBusy, "mount", b.cipher, second)
	other := filepath.Join(b.dir, "other")
	b.run(exitOK, "init", other)
	r = b.run(exitBusy, "mount", other, b.mnt)
	wantText(t, "standard error", r.stderr, "another volume is mounted there")
	b.run(exitOK, "umount", b.mnt)
}

// A daemon that is killed leaves a mount that answers nothing. Mounting again
// takes it away, and what was synced is there.
func TestMountAfterKill(t *testing.T) {
	b := mounted(t)
	b.write("synced", "before the kill")
	d := b.daemon()
	if err := unix.Kill(d.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.awaitEnd(d)
	r := b.run(exitFailure, "status", b.mnt)
	wantText(t, "status", r.stdout, "dead", "not closed cleanly")
	b.mount()
	b.wantFile("synced", "before the kill")
	b.run(exitOK, "umount", b.mnt)

	b.mount()
	d = b.daemon()
	unix.Kill(d.PID, unix.SIGKILL)
	b.awaitEnd(d)
	r = b.run(exitOK, "umount", b.mnt)
	wantText(t, "standard error", r.stderr, "had lost its daemon")
	b.mount()
	b.wantFile("synced", "before the kill")
	b.run(exitOK, "umount", b.mnt)
}
