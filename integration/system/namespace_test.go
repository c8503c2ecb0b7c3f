package system

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// -N mounts and unmounts in another mount namespace. Its root is that of this
// machine, so that the program runs here, from the package's tree.
func TestMountNamespace(t *testing.T) {
	if exec.Command("unshare", "--mount", "--propagation", "private", "true").Run() != nil {
		t.Skip("the root of this chroot is no mount: a namespace made here is not its own")
	}
	dir, err := os.MkdirTemp(env.scratch, "ns")
	check(t, err)
	command(t, "dpkg-deb", "-x", env.deb, filepath.Join(dir, "tree"))
	plyfs := filepath.Join(dir, "tree/usr/bin/plyfs")
	keys, cipher, mnt := filepath.Join(dir, "keys"), filepath.Join(dir, "v"), filepath.Join(dir, "mnt")
	check(t, os.Mkdir(mnt, 0o755))
	command(t, plyfs, "keystore", "init", "--keystore", keys)
	command(t, plyfs, "init", "--keystore", keys, cipher)

	// The other namespace lives as long as the input of this shell.
	other := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount -t tmpfs none "$0" && mkdir "$0/v" && echo there; while read line; do eval "$line" 2>&1; echo done; done`, mnt)
	in, err := other.StdinPipe()
	check(t, err)
	out, err := other.StdoutPipe()
	check(t, err)
	check(t, other.Start())
	said := bufio.NewScanner(out)
	ask := func(line string) (answer string) {
		t.Helper()
		if line != "" {
			_, err := in.Write([]byte(line + "\n"))
			check(t, err)
		}
		for said.Scan() {
			if s := said.Text(); s == "done" || s == "there" {
				return answer
			} else {
				answer += s + "\n"
			}
		}
		t.Fatal("the other namespace is gone")
		return ""
	}
	defer func() {
		in.Close()
		other.Wait()
	}()
	ask("")
	pid := itoa(other.Process.Pid)
	if exec.Command("nsenter", "--target", pid, "--mount", "test", "-d", cipher).Run() != nil {
		t.Skip("the root of a mount namespace is not that of this chroot")
	}
	target := filepath.Join(mnt, "v")
	helper := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(plyfs, args...)
		cmd.Args[0] = name
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, text)
		}
	}
	for range 2 {
		helper("mount.plyfs", cipher, target, "-o", "rw,keystore="+keys+",log="+filepath.Join(dir, "log"), "-N", "/proc/"+pid+"/ns/mnt")
		wantText(t, "the other namespace", ask("grep "+target+" /proc/self/mounts"), target+" fuse.plyfs ")
		if b, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(b), target) {
			t.Error("it is mounted here, too")
		}
		ask("echo content >" + target + "/f")
		helper("umount.fuse.plyfs", target, "-N", pid)
		if text := ask("grep " + target + " /proc/self/mounts"); text != "" {
			t.Errorf("still mounted: %s", text)
		}
		command(t, "flock", "-n", filepath.Join(cipher, ".plyfs/lock"), "true")
	}
}
