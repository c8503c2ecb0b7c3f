package docker

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plyfs/plyfs/integration/cell"
)

// The managed plugin, as make docker-plugin lays it out, makes volumes that
// containers share; what they hold survives its being disabled.
func TestManagedPlugin(t *testing.T) {
	b := newBench(t)
	// Its mounts' sources are those of a machine, with the keys there.
	for _, dir := range []string{"/etc/plyfs", "/var/lib/plyfs"} {
		if err := cell.Cover(filepath.Join(env.scratch, "managed-host"), dir); err != nil {
			t.Fatal(err)
		}
	}
	init := exec.Command(env.bin, "keystore", "init", "--keystore", "/etc/plyfs/keystore")
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("keystore init: %v\n%s", err, out)
	}
	dir := b.path("managed")
	if out, err := exec.Command("../../cmd/plyfs/packaging/docker/build.sh", dir, env.bin).CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, out)
	}
	b.do("plugin", "create", "plyfs-managed", dir)
	t.Cleanup(func() { b.do("plugin", "rm", "-f", "plyfs-managed") })
	b.do("plugin", "enable", "plyfs-managed")
	b.want("volume create", b.do("volume", "create", "-d", "plyfs-managed", "managed"), "managed")
	removed := false
	t.Cleanup(func() {
		if !removed {
			b.try("volume", "rm", "-f", "managed")
		}
	})
	b.run([]string{"-v", "managed:/data"}, "echo kept >/data/file")
	b.container("managed-one", "-v", "managed:/data", image, "sleep", "1000")
	b.want("in another container", b.do("exec", "managed-one", "cat", "/data/file"), "kept")
	b.want("its filesystem", b.do("exec", "managed-one", "stat", "-f", "-c", "%T", "/data"), "fuseblk")
	if locked := lockedMemory(t, "/mnt/volumes/managed"); locked == 0 {
		t.Error("keys may get to swap: the volume's daemon has no memory locked")
	}
	b.fails([]string{"plugin", "disable", "plyfs-managed"}, "in use")
	// What the README says of it: volumes end with the plugin, and containers
	// that had one are to be restarted.
	b.do("plugin", "disable", "-f", "plyfs-managed")
	b.fails([]string{"exec", "managed-one", "cat", "/data/file"}, "ndpoint")
	b.do("plugin", "enable", "plyfs-managed")
	b.do("restart", "-t", "0", "managed-one")
	b.want("after it was disabled", b.do("exec", "managed-one", "cat", "/data/file"), "kept")
	b.do("rm", "-f", "managed-one")
	b.do("volume", "rm", "managed")
	removed = true
	if left, _ := os.ReadDir("/var/lib/plyfs/volumes/data"); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// lockedMemory is how much of it, in KiB, has the process that was started for a
// mountpoint.
func lockedMemory(t *testing.T, target string) (kib int) {
	t.Helper()
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range lines {
		b, _ := os.ReadFile(name) // it may have ended
		if !strings.HasSuffix(string(b), "\x00"+target+"\x00") {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(name), "status"))
		if err != nil {
			t.Fatal(err)
		}
		_, value, _ := strings.Cut(string(status), "\nVmLck:")
		if _, err := fmt.Sscanf(value, "%d kB", &kib); err != nil {
			t.Fatalf("%s: %v", status, err)
		}
		return kib
	}
	t.Fatalf("no process serves %s", target)
	return 0
}
