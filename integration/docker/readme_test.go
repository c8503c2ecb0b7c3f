package docker

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/integration/cell"
)

// block returns the first block of a language in the README's section on
// Docker.
func block(t *testing.T, language string) string {
	t.Helper()
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n## Docker\n")
	text, _, _ = strings.Cut(text, "\n## ")
	m := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(text)
	if !ok || m == nil {
		t.Fatalf("the README has no %s in a section Docker", language)
	}
	return m[1]
}

// officialImage makes MariaDB's image, as far as its name goes, what it runs, and
// that it does not without being told what becomes of root's password.
func (b *bench) officialImage() {
	b.t.Helper()
	line := `[ -n "$MARIADB_RANDOM_ROOT_PASSWORD" ] || { echo "no password option" >&2; exit 1; }; ` + mariadbLine
	b.do("commit", "--change", fmt.Sprintf("CMD [\"sh\", \"-c\", %q]", line), b.do("create", image, "sh"), "mariadb")
}

// What the README says does what it says, as written, on a machine where
// neither keys nor volumes are yet.
func TestReadme(t *testing.T) {
	b := newBench(t)
	b.killPlugin()
	t.Cleanup(b.restartPlugin)
	for _, dir := range []string{"/etc/plyfs", "/var/lib/plyfs"} {
		if err := cell.Cover(env.scratch, dir); err != nil {
			t.Fatal(err)
		}
	}
	bin := b.path("bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"plyfs": env.bin, "docker": b.docker} {
		if err := os.Symlink(to, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	b.officialImage()

	commands := block(t, "sh")
	if n := strings.Count(commands, "\n"); n > 10 {
		t.Errorf("%d lines, more than ten", n)
	}
	script := exec.Command("sh", "-exc", commands+"echo plugin=$!")
	out, err := os.Create(b.path("readme.out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	script.Stdout, script.Stderr = out, out // a file: the plugin keeps it
	script.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "DOCKER_HOST=" + os.Getenv("DOCKER_HOST"), "DOCKER_CONFIG=" + os.Getenv("DOCKER_CONFIG")}
	err = script.Run()
	text, _ := os.ReadFile(b.path("readme.out"))
	m := regexp.MustCompile(`(?m)^plugin=(\d+)$`).FindSubmatch(text)
	if err != nil || m == nil {
		t.Fatalf("%v\n%s", err, text)
	}
	pid, _ := strconv.Atoi(string(m[1]))
	t.Cleanup(func() { endProcess(t, pid) })

	t.Cleanup(func() {
		b.try("rm", "-f", "db")
		b.do("volume", "rm", "db")
	})
	b.awaitMariaDB("db")
	b.sql("db", "create database readme; create table readme.t (a int) engine=innodb; insert into readme.t values (1)")
	b.want("rows", b.sql("db", "select count(*) from readme.t"), "1")
	mounts, err := cell.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	want := cell.Mount{Target: "/var/lib/plyfs/volumes/mnt/db", Type: "fuse.plyfs", Source: "/var/lib/plyfs/volumes/data/db"}
	found := false
	for _, m := range mounts {
		found = found || m == want
	}
	if !found {
		t.Errorf("%v is not mounted", want)
	}
}

// endProcess ends one that is nobody's child here.
func endProcess(t *testing.T, pid int) {
	unix.Kill(pid, unix.SIGTERM)
	for end := time.Now().Add(patience); unix.Kill(pid, 0) == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("process %d does not end", pid)
			return
		}
	}
}

// A container that sees the mounts of others' volumes as the README says holds none
// of them open.
func TestMonitoringContainer(t *testing.T) {
	b := newBench(t)
	b.volume("watched")
	b.container("user", "-v", "watched:/data", image, "sleep", "1000")
	b.do("exec", "user", "sh", "-c", "echo x >/data/f")
	b.container("monitor", "-v", b.path("volumes")+":/volumes:ro,rslave", image, "sleep", "1000")
	const at = "/volumes/mnt/watched"
	b.want("what the monitor sees", b.do("exec", "monitor", "cat", at+"/f"), "x")
	b.do("rm", "-f", "user")
	lock, err := os.Open(b.path("volumes/data/watched/.plyfs/lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	for end := time.Now().Add(patience); unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the volume is still open")
		}
	}
	b.want("what the monitor sees then", b.do("exec", "monitor", "ls", "-A", at), "")
}

// One that was given copies of the mounts, against that advice, keeps a volume
// mounted, but neither from other containers nor, once it is gone, from being
// removed.
func TestMonitoringContainerWithCopies(t *testing.T) {
	b := newBench(t)
	b.volume("copied")
	b.container("user", "-v", "copied:/data", image, "sleep", "1000")
	b.do("exec", "user", "sh", "-c", "echo x >/data/f")
	b.container("monitor", "-v", b.path("volumes")+":/volumes:ro,rprivate", image, "sleep", "1000")
	b.want("what the monitor sees", b.do("exec", "monitor", "cat", "/volumes/mnt/copied/f"), "x")
	b.do("restart", "-t", "0", "user")
	b.want("after a restart", b.do("exec", "user", "cat", "/data/f"), "x")
	b.do("rm", "-f", "user")
	b.run([]string{"-v", "copied:/data"}, "echo y >>/data/f")
	b.want("what the monitor sees then", b.do("exec", "monitor", "cat", "/volumes/mnt/copied/f"), "x\ny")
	b.fails([]string{"volume", "rm", "copied"}, "in use")
	b.do("rm", "-f", "monitor")
	b.do("volume", "rm", "copied")
}

// The README's compose file, with docker-compose as Debian has it.
func TestCompose(t *testing.T) {
	b := newBench(t)
	if _, err := exec.LookPath("docker-compose"); err != nil {
		t.Fatalf("%v; make deps brings it", err)
	}
	b.officialImage()
	dir := b.path("compose")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// This dockerd has no bridge, which compose would make a network on.
	file := strings.Replace(block(t, "yaml"), "    image:", "    network_mode: none\n    image:", 1)
	if err := os.WriteFile(filepath.Join(dir, "docker-compose.yml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	compose := func(args ...string) {
		t.Helper()
		cmd := exec.Command("docker-compose", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("docker-compose %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	t.Cleanup(func() { compose("down", "-v") })
	compose("up", "-d")
	b.awaitMariaDB("compose_db_1")
	b.sql("compose_db_1", "create database c; create table c.t (a int) engine=innodb; insert into c.t values (1)")
	compose("down")
	b.want("driver", b.do("volume", "inspect", "-f", "{{.Driver}} {{index .Status \"block-size\"}}", "compose_db"), "plyfs 16384")
	compose("up", "-d")
	b.awaitMariaDB("compose_db_1")
	b.want("rows", b.sql("compose_db_1", "select count(*) from c.t"), "1")
}
