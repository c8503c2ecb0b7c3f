package keys

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The exit codes of plyfs that matter here.
const (
	exitOK           = 0
	exitDenied       = 15
	exitUnavailable  = 16
	exitInaccessible = 17
)

// host is a machine with key stores, providers and one volume.
type host struct {
	dir, keystore, providers, volume, mnt, log string
	path                                       string // PATH of the commands
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp(env.scratch, "host-")
	if err != nil {
		t.Fatal(err)
	}
	// An ordinary host's directories: nobody but root writes them.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &host{dir: dir, keystore: filepath.Join(dir, "keystore"), providers: filepath.Join(dir, "providers"),
		volume: filepath.Join(dir, "volume"), mnt: filepath.Join(dir, "mnt"), log: filepath.Join(dir, "log"),
		path: env.programs + ":/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, d := range []string{h.providers, h.mnt} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.run(t, exitOK, "keystore", "init", "--keystore", h.keystore, "--cluster", "east", "--group", "db")
	t.Cleanup(func() {
		if t.Failed() {
			if log, err := os.ReadFile(h.log); err == nil {
				t.Logf("log of the daemon:\n%s", log)
			}
		}
		exec.Command("umount", "-l", h.mnt).Run()
	})
	return h
}

// run runs plyfs, checks its exit code, and returns all that it said.
func (h *host) run(t *testing.T, code int, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// To a file: a daemon that stays must not hold a pipe that is waited for.
	out, err := os.CreateTemp(h.dir, "out-")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, env.bin, args...)
	cmd.Env = []string{"PATH=" + h.path, "HOME=" + h.dir, "XDG_STATE_HOME=" + filepath.Join(h.dir, "state")}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, readErr := os.ReadFile(out.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("plyfs %q: %v", args, err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("plyfs %q ended with %d, wanted %d:\n%s", args, got, code, text)
	}
	return string(text)
}

// provider writes the file of the provider cmk.
func (h *host) provider(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.providers, "cmk.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (h *host) init(t *testing.T) {
	t.Helper()
	h.run(t, exitOK, "init", "--keystore", h.keystore, "--cluster", "east", "--group", "db", "--providers", h.providers, "--provider", "cmk", h.volume)
}

func (h *host) mount(t *testing.T, code int) string {
	t.Helper()
	return h.run(t, code, "mount", "--keystore", h.keystore, "-o", "providers="+h.providers+",log="+h.log, h.volume, h.mnt)
}

func (h *host) umount(t *testing.T) {
	t.Helper()
	h.run(t, exitOK, "umount", h.mnt)
}

var content = bytes.Repeat([]byte("customer data "), 10000)

func (h *host) write(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.mnt, "file"), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (h *host) reads(t *testing.T) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(h.mnt, "file"))
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
}

// noTrace checks that no file of the volume says where its key is.
func (h *host) noTrace(t *testing.T, words ...string) {
	t.Helper()
	config, err := os.ReadFile(filepath.Join(h.volume, "plyfs.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(config, []byte("cmk")) {
		t.Error("the volume does not name its provider")
	}
	for _, w := range words {
		if strings.Contains(string(config), w) {
			t.Errorf("the volume says %q", w)
		}
	}
}
