package docker

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// docker volume create, ls, inspect and rm say and do what is so.
func TestVolumeCommands(t *testing.T) {
	b := newBench(t)
	b.volume("cmds", "block-size=16384", "group=default")
	if !strings.Contains(b.do("volume", "ls", "--format", "{{.Driver}} {{.Name}} {{.Scope}}"), "plyfs cmds local") {
		t.Error("volume ls lacks it")
	}
	type inspected struct {
		Driver, Mountpoint, CreatedAt, Scope string
		Status                               struct {
			Uses      int    `json:"uses"`
			BlockSize int    `json:"block-size"`
			Layers    int    `json:"layers"`
			Cluster   string `json:"cluster"`
		}
	}
	inspect := func() (v inspected) {
		t.Helper()
		var all []inspected
		if err := json.Unmarshal([]byte(b.do("volume", "inspect", "cmds")), &all); err != nil || len(all) != 1 {
			t.Fatalf("inspect: %v", err)
		}
		return all[0]
	}
	v := inspect()
	if v.Driver != "plyfs" || v.Scope != "local" || v.Mountpoint != "" || v.CreatedAt == "" ||
		v.Status.BlockSize != 16384 || v.Status.Layers != 2 || v.Status.Cluster != "default" || v.Status.Uses != 0 {
		t.Errorf("inspect: %+v", v)
	}
	b.do("volume", "create", "-d", "plyfs", "-o", "block-size=16384", "-o", "group=default", "cmds") // once more
	b.container("holder", "-v", "cmds:/data", image, "sleep", "1000")
	if v := inspect(); v.Mountpoint != b.mountpoint("cmds") || v.Status.Uses != 1 {
		t.Errorf("inspect while it is used: %+v", v)
	}
	b.fails([]string{"volume", "rm", "cmds"}, "in use")
	b.do("rm", "-f", "holder")
	if v := inspect(); v.Mountpoint != "" || v.Status.Uses != 0 || b.isMounted("cmds") {
		t.Errorf("inspect after its use: %+v", v)
	}
	b.do("volume", "rm", "cmds")
	b.fails([]string{"volume", "inspect", "cmds"}, "o such volume")
	if _, err := os.Stat(b.path("volumes/data/cmds")); !os.IsNotExist(err) {
		t.Errorf("its ciphertext: %v", err)
	}

	b.fails([]string{"volume", "create", "-d", "plyfs", "-o", "blocksize=16384", "x"}, "did you mean block-size?")
	b.fails([]string{"volume", "create", "-d", "plyfs", "-o", "group=nobody", "x"}, `unknown group "nobody"`)
	b.fails([]string{"volume", "create", "-d", "plyfs", "-o", "cipherdir=/etc", "x"}, "not below a directory that --allow-dir names")
	b.fails([]string{"volume", "create", "-d", "plyfs", "-o", "keystore=/etc", "x"}, "unknown option")
	if strings.Contains(b.do("volume", "ls", "-q"), "x\n") {
		t.Error("a refused volume is listed")
	}
}

// What one container writes, another sees; modes and owners are kept; an empty
// volume gets what the image has there; a read-only use cannot write.
func TestContainersShareAVolume(t *testing.T) {
	b := newBench(t)
	b.volume("shared")
	b.container("writer", "-v", "shared:/srv", image, "sleep", "1000")
	b.container("reader", "--mount", "type=volume,src=shared,dst=/in,readonly", image, "sleep", "1000")
	b.want("what the image had there", b.do("exec", "reader", "cat", "/in/from-image"), "made with the image")
	b.do("exec", "writer", "sh", "-c", "echo hello >/srv/file && chown mysql /srv/file && chmod 640 /srv/file")
	b.want("in the other container", b.do("exec", "reader", "cat", "/in/file"), "hello")
	b.want("owner and mode", b.do("exec", "reader", "stat", "-c", "%U %a", "/in/file"), "mysql 640")
	b.fails([]string{"exec", "reader", "touch", "/in/x"}, "Read-only file system")
	b.do("rm", "-f", "writer")
	b.want("after the first is gone", b.do("exec", "reader", "cat", "/in/file"), "hello")
	b.do("rm", "-f", "reader")
	if b.isMounted("shared") {
		t.Error("mounted for nobody")
	}
	// What is on the disk is ciphertext.
	out, err := exec.Command("grep", "-rl", "hello", b.path("volumes/data/shared")).CombinedOutput()
	if err == nil {
		t.Errorf("plaintext in %s", out)
	}
}

// A volume that is there already is taken, used, and left where it was.
func TestAdoptedVolume(t *testing.T) {
	b := newBench(t)
	dir := b.path("allow/old")
	if out, err := exec.Command(env.bin, "init", dir).CombinedOutput(); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	b.volume("adopted", "cipherdir="+dir)
	b.run([]string{"-v", "adopted:/data"}, "echo kept >/data/file")
	b.do("volume", "rm", "adopted")
	if _, err := os.Stat(filepath.Join(dir, "plyfs.json")); err != nil {
		t.Fatal(err)
	}
	b.volume("again", "cipherdir="+dir)
	b.want("what it held", b.run([]string{"-v", "again:/data"}, "cat /data/file"), "kept")
}
