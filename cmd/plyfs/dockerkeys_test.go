package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What an operator with a customer-managed key says to the plugin holds for its
// volumes: their keys and journals lie elsewhere, are watched, and go with them.
func TestDockerPluginKeys(t *testing.T) {
	needMounts(t)
	b := newPluginBench(t, "--cluster", "prod", "--group", "db-1")
	cmk := b.provider("kms")
	dir := func(name string) string {
		path := filepath.Join(b.dir, name)
		b.must(os.Mkdir(path, 0o700))
		return path
	}
	configs, journals, audit := dir("a, b"), dir("journals"), filepath.Join(b.dir, `audit,"x`)
	flags := []string{"--cluster", "prod", "--group", "db-1", "--provider", "kms", "--config-dir", configs, "--journal-dir", journals,
		"--revalidate", "1h", "--grace", "0", "--audit", audit, "--providers", filepath.Join(b.dir, "providers")}
	b.start(flags...)

	b.must(os.WriteFile(cmk, []byte("disabled"), 0o600))
	b.wantErr(b.ask("Create", dockerArgs{Name: "db"}, nil), "denied")
	b.must(os.WriteFile(cmk, []byte("v1"), 0o600))
	b.must(b.ask("Create", dockerArgs{Name: "db"}, nil)) // nothing was left in the way
	config, data := filepath.Join(configs, "db/plyfs.json"), filepath.Join(b.state, "data/db")
	b.run(exitNotVolume, "info", data)
	wantText(t, "key ls", b.run(exitOK, "key", "ls", "--config", config, data).stdout, "group+provider: cluster prod, group db-1", "provider kms")

	at := b.use("db", "one")
	writeAndRead(t, at, "content")
	if in, _ := filepath.Glob(filepath.Join(journals, "db/plyfs-*/*")); len(in) == 0 {
		t.Error("the journal is not where it was said to be")
	}
	wantText(t, "status", b.run(exitOK, "status", at).stdout, "every 1h", "provider kms")
	b.must(os.WriteFile(cmk, []byte("disabled"), 0o600))
	b.run(exitInaccessible, "revalidate", at)
	b.must(os.WriteFile(cmk, []byte("v1"), 0o600))
	b.run(exitOK, "revalidate", at)
	wantRead(t, at, "content")
	for _, event := range []string{"unlock", "revalidate", "inaccessible", "available"} {
		if len(b.auditLines(audit, event)) == 0 {
			t.Errorf("no %s in the audit log", event)
		}
	}

	b.end(unix.SIGTERM)
	b.start(flags...)
	b.must(b.ask("Unmount", dockerArgs{Name: "db", ID: "one"}, nil))
	wantRead(t, b.use("db", "two"), "content")
	b.must(b.ask("Unmount", dockerArgs{Name: "db", ID: "two"}, nil))

	b.must(b.ask("Remove", dockerArgs{Name: "db"}, nil))
	for _, left := range []string{configs, journals} {
		if in, _ := os.ReadDir(left); len(in) != 0 {
			t.Errorf("left in %s: %v", left, in)
		}
	}
	// Keys that nobody knows are not overwritten.
	unknown := filepath.Join(configs, "db/plyfs.json")
	b.must(os.Mkdir(filepath.Dir(unknown), 0o700))
	b.must(os.WriteFile(unknown, nil, 0o600))
	b.wantErr(b.ask("Create", dockerArgs{Name: "db"}, nil), "exists", "gone for good")
	if there, _ := exists(unknown); !there {
		t.Error("they are gone")
	}

	// Those of a Create that was cut off, and the place for them, are in nobody's way;
	// without a sign that they are its own they stay.
	b.end(unix.SIGKILL)
	half := filepath.Join(b.state, "new/db.0123456789abcdef")
	b.must(os.Mkdir(half, 0o700))
	b.start(flags...)
	if there, _ := exists(unknown); !there {
		t.Error("another volume's are gone")
	}
	b.end(unix.SIGKILL)
	b.must(os.Mkdir(half, 0o700))
	b.must(os.WriteFile(markOf(filepath.Dir(unknown), half), nil, 0o600))
	b.start(flags...)
	if there, _ := exists(filepath.Dir(unknown)); there {
		t.Error("they are there")
	}
	b.must(os.Mkdir(filepath.Dir(unknown), 0o700))
	b.must(os.WriteFile(markOf(filepath.Dir(unknown), half), nil, 0o600))
	b.must(b.ask("Create", dockerArgs{Name: "db"}, nil))
	if left, _ := filepath.Glob(filepath.Join(configs, "db/*")); len(left) != 2 { // two copies
		t.Errorf("beside its keys: %q", left)
	}
}

// Passphrases come from where the plugin's own command line says.
func TestDockerPluginPassphrases(t *testing.T) {
	pass := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(pass, []byte("a long enough passphrase\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newPluginBench(t, "--data-passphrase-file", pass, "--infra-passphrase-file", pass)
	program := b.file("ask", "#!/bin/sh\ncat "+pass+"\n")
	if err := os.Chmod(program, 0o700); err != nil {
		t.Fatal(err)
	}
	b.start("--data-passphrase-program", program, "--infra-passphrase-file", pass)
	b.must(b.ask("Create", dockerArgs{Name: "db"}, nil))
	writeAndRead(t, b.use("db", "one"), "content")
	b.must(b.ask("Unmount", dockerArgs{Name: "db", ID: "one"}, nil))
	b.wantErr(b.ask("Create", dockerArgs{Name: "x", Opts: map[string]string{"data-passphrase-file": pass}}, nil), "unknown option")
}

// A passphrase program that hangs is ended with the request it is run for, and
// so is what it has started: the next request need not wait.
func TestDockerPluginPassphraseProgramHangs(t *testing.T) {
	pass := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(pass, []byte("a long enough passphrase\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newPluginBench(t, "--data-passphrase-file", pass, "--infra-passphrase-file", pass)
	hang, hanging := b.file("hang", ""), filepath.Join(b.dir, "hanging")
	program := b.file("ask", "#!/bin/sh\nif [ -e "+hang+" ]; then sleep 600 & echo $! >"+hanging+".new; mv "+hanging+".new "+hanging+"; wait; fi\ncat "+pass+"\n")
	b.must(os.Chmod(program, 0o700))
	b.start("--data-passphrase-program", program, "--infra-passphrase-file", pass)
	ctx, hangUp := context.WithCancel(context.Background())
	defer hangUp()
	asked := make(chan error, 1)
	go func() {
		request, err := http.NewRequestWithContext(ctx, "POST", "http://plugin/VolumeDriver.Create", strings.NewReader(`{"Name":"db"}`))
		if err == nil {
			_, err = b.client.Do(request)
		}
		asked <- err
	}()
	var sleeper int
	for end := time.Now().Add(time.Minute); sleeper == 0; time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(hanging)
		fmt.Sscan(string(text), &sleeper)
		if time.Now().After(end) {
			t.Fatal("the program was not run")
		}
	}
	defer unix.Kill(sleeper, unix.SIGKILL)
	hangUp()
	if err := <-asked; err == nil {
		t.Error("answered")
	}
	b.must(os.Remove(hang))
	b.client.Timeout = 2 * time.Minute // less than the program would take
	b.must(b.ask("Create", dockerArgs{Name: "db"}, nil))
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := startOf(sleeper); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("what the program had started lives on")
		}
	}
}
