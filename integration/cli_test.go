package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/plyfs/plyfs/integration/scratch"
	"golang.org/x/sys/unix"
)

// TestExitCodes is the part of the table of exit codes that can be had
// without tampering (which tamper_test.go does).
func TestExitCodes(t *testing.T) {
	v := newMounted(t)
	touch(t, filepath.Join(v.mnt, "f"), []byte("x"))
	mnt2, empty, full := filepath.Join(v.root, "mnt2"), filepath.Join(v.root, "empty"), filepath.Join(v.root, "full")
	for _, d := range []string{mnt2, empty, full} {
		check(t, os.Mkdir(d, 0o755))
	}
	touch(t, filepath.Join(full, "x"), nil)
	store := []string{"--keystore", v.keys}
	args := func(verb string, rest ...string) []string { return append(append([]string{verb}, store...), rest...) }
	for _, c := range []struct {
		what string
		args []string
		want int
	}{
		{"version", []string{"version"}, 0},
		{"help", []string{"help"}, 0},
		{"an unknown command", []string{"frobnicate"}, 2},
		{"an unknown flag", []string{"mount", "--frobnicate"}, 2},
		{"a missing argument", args("mount", v.cipher), 2},
		{"an unknown option", args("mount", "-o", "frobnicate", v.cipher, mnt2), 2},
		{"a bad block size", args("init", "--block-size", "5000", empty), 2},
		{"key stores that exist", []string{"keystore", "init", "--keystore", v.keys}, 9},
		{"init of a volume", args("init", v.cipher), 9},
		{"init of a directory with files", args("init", full), 9},
		{"an unknown group", args("init", "--group", "nobody", empty), 8},
		{"an unknown cluster", args("init", "--cluster", "nowhere", empty), 8},
		{"a bad name of a group", args("init", "--group", "No Body", empty), 2},
		{"mounting it twice", args("mount", v.cipher, mnt2), 5},
		{"mounting it twice at the same place", args("mount", v.cipher, v.mnt), 5},
		{"mounting what is no volume", args("mount", empty, mnt2), 6},
		{"info of what is no volume", []string{"info", empty}, 6},
		{"umount of what is not mounted", []string{"umount", mnt2}, 13},
		{"status of what is not mounted", []string{"status", mnt2}, 13},
		{"inspect of a foreign file", []string{"inspect", filepath.Join(full, "x")}, 4},
	} {
		r := plyfs(c.args...)
		if c.what == "inspect of a foreign file" {
			if r.code == 0 {
				t.Errorf("%s succeeds", c.what)
			}
		} else if r.code != c.want {
			t.Errorf("%s: exit code %d, want %d: %s", c.what, r.code, c.want, r.stderr)
		}
		if r.code != 0 {
			if !strings.Contains(r.stderr, "plyfs: error: ") {
				t.Errorf("%s: no \"plyfs: error:\" on standard error: %q", c.what, r.stderr)
			}
			if r.stdout != "" {
				t.Errorf("%s fails, with this on standard output: %q", c.what, r.stdout)
			}
		}
	}
	v.mustUnmount(t)
	for _, c := range []struct {
		opts []string
		want int
	}{
		{[]string{"-o", "layers=1"}, 12}, {[]string{"-o", "cluster=other"}, 12}, {[]string{"-o", "group=other"}, 12},
		{[]string{"--keystore", filepath.Join(v.root, "missing")}, 6},
	} {
		v.opts = c.opts
		v.mountFails(t, fmt.Sprint(c.opts), c.want)
	}
	v.opts = []string{"-o", "layers=2,cluster=default,group=default"}
	v.mustMount(t)
	wantContent(t, filepath.Join(v.mnt, "f"), []byte("x"))
	// A file that is open makes it busy, and leaves it as it is.
	fd := open(t, filepath.Join(v.mnt, "f"), unix.O_RDONLY, 0)
	if r := plyfs("umount", v.mnt); r.code != 5 {
		t.Errorf("umount with an open file: exit code %d, want 5: %s", r.code, r.stderr)
	}
	wantContent(t, filepath.Join(v.mnt, "f"), []byte("x"))
	unix.Close(fd)
}

// TestSingleLayer is the volume of one layer: it says so when it is mounted.
func TestSingleLayer(t *testing.T) {
	v := newMounted(t, "--single-layer")
	touch(t, filepath.Join(v.mnt, "f"), pattern(100_000, 1))
	v.remount(t)
	wantContent(t, filepath.Join(v.mnt, "f"), pattern(100_000, 1))
	v.mustUnmount(t)
	v.opts = nil
	v.mountFails(t, "without layers=1", 12)
	v.opts = []string{"-o", "layers=2"}
	v.mountFails(t, "with layers=2", 12)
	v.opts = []string{"-o", "layers=1"}
	v.mustMount(t)
}

// TestGroups makes stores with names, and volumes that only their group opens.
func TestGroups(t *testing.T) {
	v := newVolume(t)
	defer v.close(t)
	keys, dir := filepath.Join(v.root, "k2"), filepath.Join(v.root, "c2")
	mustPlyfs(t, "keystore", "init", "--keystore", keys, "--cluster", "prod-eu", "--group", "db-1")
	mustPlyfs(t, "init", "--keystore", keys, "--cluster", "prod-eu", "--group", "db-1", dir)
	var info struct {
		Layers []struct {
			Layer string
			Slots []struct{ Cluster, Group string }
		}
		BlockSize int `json:"block_size"`
	}
	check(t, json.Unmarshal([]byte(mustPlyfs(t, "info", "--json", dir)), &info))
	if len(info.Layers) != 2 || info.BlockSize != 4096 || len(info.Layers[1].Slots) != 1 || info.Layers[1].Slots[0].Group != "db-1" {
		t.Errorf("info: %+v", info)
	}
	if r := plyfs("mount", "--keystore", v.keys, dir, v.mnt); r.code != 3 && r.code != 8 {
		t.Errorf("mounting with stores that lack the group: exit code %d: %s", r.code, r.stderr)
	}
	for _, f := range []string{"data.store", "infra.store"} {
		if m := stat(t, filepath.Join(keys, f)).Mode & 0o777; m != 0o600 {
			t.Errorf("%s has mode %o", f, m)
		}
	}
}

// TestBackground mounts as scripts and fstab do: the command returns when the
// mount serves, and umount when the volume is closed.
func TestBackground(t *testing.T) {
	v := newVolume(t)
	defer v.close(t)
	log := filepath.Join(v.root, "daemon.log")
	start := time.Now()
	mustPlyfs(t, "mount", "--keystore", v.keys, "-o", "log="+log, v.cipher, v.mnt)
	t.Logf("mount returned after %v", time.Since(start).Round(time.Millisecond))
	if !v.mounted() {
		t.Fatal("mount returned 0 and nothing is mounted")
	}
	touch(t, filepath.Join(v.mnt, "f"), pattern(200_000, 1))

	source, fstype, options := mountEntry(t, v.mnt)
	if source != v.cipher || fstype != "fuse.plyfs" {
		t.Errorf("mounted: source %q, type %q", source, fstype)
	}
	for _, want := range []string{"nosuid", "nodev", "allow_other", "default_permissions"} {
		if !strings.Contains(","+options+",", ","+want+",") {
			t.Errorf("%s is not among the options %s", want, options)
		}
	}
	var status struct {
		Mountpoint, Cipherdir, State string
		PID, Layers                  int
		Notes                        []string
	}
	check(t, json.Unmarshal([]byte(mustPlyfs(t, "status", "--json", v.mnt)), &status))
	if status.Mountpoint != v.mnt || status.Cipherdir != v.cipher || status.State != "serving" || status.Layers != 2 || status.PID == 0 {
		t.Errorf("status: %+v", status)
	}
	if !strings.Contains(strings.Join(status.Notes, " "), "both") {
		t.Errorf("status does not say that both stores are protected alike: %q", status.Notes)
	}
	var all []json.RawMessage
	check(t, json.Unmarshal([]byte(mustPlyfs(t, "status", "--json")), &all))
	if len(all) == 0 {
		t.Error("status without a mountpoint lists nothing")
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", status.PID))
	check(t, err)
	if f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')'):])); f[3] == strconv.Itoa(sessionOf(t)) {
		t.Error("the daemon stays in the caller's session")
	}
	mustPlyfs(t, "umount", v.mnt)
	if v.mounted() {
		t.Error("still mounted")
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", status.PID)); err == nil && !strings.Contains(string(b), "State:\tZ") {
		t.Errorf("umount returned before the daemon ended:\n%s", b)
	}
	// Plain umount(8), and a mount directly after it.
	for range 3 {
		mustPlyfs(t, "mount", "--keystore", v.keys, "-o", "log="+log, v.cipher, v.mnt)
		wantContent(t, filepath.Join(v.mnt, "f"), pattern(200_000, 1))
		command(t, "umount", v.mnt)
	}
	mustPlyfs(t, "mount", "--keystore", v.keys, "-o", "log="+log, v.cipher, v.mnt)
	wantContent(t, filepath.Join(v.mnt, "f"), pattern(200_000, 1))
	mustPlyfs(t, "umount", v.mnt)
}

// sessionOf is this process's session.
func sessionOf(t testing.TB) int {
	t.Helper()
	sid, err := unix.Getsid(0)
	check(t, err)
	return sid
}

// mountEntry is a mount's line of /proc/self/mounts.
func mountEntry(t testing.TB, mnt string) (source, fstype, options string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	check(t, err)
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 3 && f[1] == mnt {
			return f[0], f[2], f[3]
		}
	}
	t.Fatalf("%s is not in /proc/self/mounts", mnt)
	return
}

// TestMountProgram goes through mount(8) and its helpers, as fstab does, in a
// mount namespace where plyfs is installed.
func TestMountProgram(t *testing.T) {
	v := newVolume(t)
	defer v.close(t)
	sbin := filepath.Join(v.root, "sbin")
	check(t, os.Mkdir(sbin, 0o755))
	check(t, os.Link(env.bin, filepath.Join(sbin, "plyfs")))
	check(t, os.Symlink("plyfs", filepath.Join(sbin, "mount.plyfs")))
	fstab := filepath.Join(v.root, "fstab")
	opts := "keystore=" + v.keys + ",noatime,log=" + filepath.Join(v.root, "log")
	check(t, os.WriteFile(fstab, fmt.Appendf(nil, "%s %s fuse.plyfs %s 0 0\n", v.cipher, v.mnt, opts), 0o644))
	unshare := []string{"--mount"}
	if exec.Command("unshare", "--mount", "true").Run() != nil {
		// In a chroot whose root is no mount point it cannot be made private.
		unshare = append(unshare, "--propagation", "unchanged")
	}
	for name, mount := range map[string]string{
		"mount -t":       "mount -t fuse.plyfs -o " + opts + " " + v.cipher + " " + v.mnt,
		"fstab":          "mount --fstab " + fstab + " " + v.mnt,
		"fstab, twice":   "mount --fstab " + fstab + " -a; mount --fstab " + fstab + " -a",
		"mount.plyfs":    "mount.plyfs " + v.cipher + " " + v.mnt + " -o rw," + opts,
		"plyfs, no verb": "plyfs " + v.cipher + " " + v.mnt + " -o rw,dev,suid," + opts,
	} {
		t.Run(name, func(t *testing.T) {
			script := "mount --bind " + sbin + " /usr/local/sbin; trap 'umount -l /usr/local/sbin' EXIT; " +
				mount + "; findmnt -rno SOURCE,FSTYPE " + v.mnt + "; echo content >" + v.mnt + "/f; plyfs umount " + v.mnt
			cmd := exec.Command("unshare", append(unshare, "sh", "-ec", script)...)
			cmd.Env = scratch.Environ(env.scratch)
			cmd.WaitDelay = 2 * time.Second
			out, err := cmd.CombinedOutput()
			if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
				t.Fatalf("%v\n%s", err, out)
			}
			if got, want := strings.TrimSpace(string(out)), v.cipher+" fuse.plyfs"; got != want {
				t.Errorf("mounted %q, want %q", got, want)
			}
		})
	}
}

// TestReadOnly mounts with -o ro.
func TestReadOnly(t *testing.T) {
	v := newMounted(t)
	f := filepath.Join(v.mnt, "f")
	touch(t, f, []byte("x"))
	v.mustUnmount(t)
	v.opts = []string{"-o", "ro"}
	v.mustMount(t)
	wantContent(t, f, []byte("x"))
	_, err := unix.Open(f, unix.O_RDWR, 0)
	wantErr(t, "open for writing", err, unix.EROFS)
	wantErr(t, "unlink", unix.Unlink(f), unix.EROFS)
	wantErr(t, "mkdir", unix.Mkdir(f+"d", 0o755), unix.EROFS)
	wantErr(t, "chmod", unix.Chmod(f, 0o600), unix.EROFS)
	v.mustUnmount(t)
	v.opts = nil
	v.mustMount(t)
	touch(t, f, []byte("y"))
}

// TestInspect reads a file's ciphertext as an auditor does, without keys.
func TestInspect(t *testing.T) {
	v := newMounted(t)
	const size = 75*blockSize + 123
	touch(t, filepath.Join(v.mnt, "f"), pattern(size, 1))
	v.mustUnmount(t)
	file := backingOf(t, v.cipher, size)
	if s := mustPlyfs(t, "inspect", file); !strings.Contains(s, "AES-256-GCM") && !strings.Contains(strings.ToLower(s), "layer 1") {
		t.Errorf("inspect does not speak of the layers:\n%s", s)
	}
	var in struct {
		Static struct {
			Suite, Layers int
			BlockSize     int `json:"block_size"`
		} `json:"static_header"`
		Header  struct{ Size int64 }
		Summary struct{ Groups, Present, Holes int }
	}
	check(t, json.Unmarshal([]byte(mustPlyfs(t, "inspect", "--json", "--blocks", "all", file)), &in))
	if in.Header.Size != size || in.Static.Layers != 2 || in.Static.BlockSize != 4096 || in.Summary.Present != 76 || in.Summary.Groups != 2 {
		t.Errorf("inspect: %+v", in)
	}
	if plyfs("inspect", filepath.Join(v.cipher, "plyfs.json")).code == 0 {
		t.Error("plyfs.json passes for a file's ciphertext")
	}
	v.mustMount(t)
}

// TestPassphrase opens one layer by a passphrase, the other by a key file.
func TestPassphrase(t *testing.T) {
	v := newVolume(t)
	defer v.close(t)
	keys, dir, pass := filepath.Join(v.root, "k2"), filepath.Join(v.root, "c2"), filepath.Join(v.root, "pass")
	check(t, os.WriteFile(pass, []byte("correct horse battery staple\n"), 0o600))
	wrong := filepath.Join(v.root, "wrong")
	check(t, os.WriteFile(wrong, []byte("incorrect horse\n"), 0o600))
	mustPlyfs(t, "keystore", "init", "--keystore", keys, "--infra-passphrase-file", pass)
	mustPlyfs(t, "init", "--keystore", keys, "--infra-passphrase-file", pass, dir)
	if r := plyfs("mount", "--keystore", keys, "--infra-passphrase-file", wrong, dir, v.mnt); r.code != 3 {
		t.Errorf("wrong passphrase: exit code %d, want 3: %s", r.code, r.stderr)
	}
	if r := plyfs("mount", "--keystore", keys, dir, v.mnt); r.code == 0 {
		t.Error("mounted without the passphrase, and without a terminal to ask at")
	}
	mustPlyfs(t, "mount", "--keystore", keys, "-o", "infra-passphrase-file="+pass, dir, v.mnt)
	touch(t, filepath.Join(v.mnt, "f"), []byte("x"))
	mustPlyfs(t, "umount", v.mnt)
}

// TestVersionAndSpeed are those that need no volume.
func TestVersionAndSpeed(t *testing.T) {
	if env.bin == "" {
		t.Skip("PLYFS_ONLY=plain")
	}
	if s := mustPlyfs(t, "version"); !strings.HasPrefix(s, "plyfs ") {
		t.Errorf("got %q", s)
	}
	if s := mustPlyfs(t, "speed", "--time", "20ms", "--block-size", "4096"); !strings.Contains(s, "GB/s") {
		t.Errorf("speed says nothing in GB/s:\n%s", s)
	}
}
