package docker

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// image is what all containers run: a shell, some tools, and MariaDB, as they
// are on this machine.
const image = "plyfs-test"

var imagePrograms = []string{
	"sh", "cat", "ls", "sleep", "touch", "mkdir", "rm", "chown", "chmod", "stat", "sed", "dirname", "basename", "uname", "mount", "sync", "dd",
	"mariadbd", "mariadb", "mariadb-admin", "mariadb-install-db", "my_print_defaults", "resolveip",
}

// imageFiles are added with their own content.
var imageFiles = map[string]string{
	"etc/passwd":        "root:x:0:0:root:/:/bin/sh\nmysql:x:999:999::/var/lib/mysql:/bin/sh\n",
	"etc/group":         "root:x:0:\nmysql:x:999:\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	"etc/mysql/my.cnf":  "[client-server]\nsocket=/tmp/mysql.sock\n[mariadbd]\ninnodb_buffer_pool_size=32M\ninnodb_log_file_size=16M\ninnodb_flush_method=O_DIRECT\n",
	"srv/from-image":    "made with the image\n",
}

// makeImage imports the tree.
func makeImage(l *lab) error {
	cmd := exec.Command(l.docker, "import", "-", image)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return err
	}
	err = errors.Join(writeImage(in), in.Close(), cmd.Wait())
	if err != nil {
		return fmt.Errorf("docker import: %w\n%s", err, &said)
	}
	return nil
}

func writeImage(w io.Writer) error {
	t := &tree{tar.NewWriter(w), map[string]bool{}}
	for _, dir := range []string{"tmp", "var/lib/mysql", "run", "proc", "sys", "dev"} {
		if err := t.dir(dir); err != nil {
			return err
		}
	}
	for _, name := range imagePrograms {
		path, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		if err := t.program(path); err != nil {
			return err
		}
	}
	for name, content := range imageFiles {
		if err := t.file(name, 0o644, []byte(content)); err != nil {
			return err
		}
	}
	share, err := filepath.Glob("/usr/share/mysql/*.sql")
	if err != nil {
		return err
	}
	share = append(share, "/usr/share/mysql/english/errmsg.sys")
	charsets, err := filepath.Glob("/usr/share/mysql/charsets/*")
	if err != nil {
		return err
	}
	for _, path := range append(share, charsets...) {
		if err := t.copy(path, path); err != nil {
			return err
		}
	}
	return t.w.Close()
}

// tree is a tar of what was added so far.
type tree struct {
	w   *tar.Writer
	has map[string]bool
}

func (t *tree) dir(name string) error {
	if name == "." || t.has[name] {
		return nil
	}
	if err := t.dir(filepath.Dir(name)); err != nil {
		return err
	}
	t.has[name] = true
	mode := int64(0o755)
	if name == "tmp" {
		mode = 0o1777
	}
	return t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
}

func (t *tree) file(name string, mode int64, content []byte) error {
	if t.has[name] {
		return nil
	}
	if err := t.dir(filepath.Dir(name)); err != nil {
		return err
	}
	t.has[name] = true
	if err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := t.w.Write(content)
	return err
}

// copy adds what lies at path, symlinks followed, as name.
func (t *tree) copy(path, name string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return t.file(strings.TrimPrefix(name, "/"), 0o755, b)
}

// program adds a program below /usr/bin or where it is, and its libraries.
func (t *tree) program(path string) error {
	if err := t.copy(path, filepath.Join("/bin", filepath.Base(path))); err != nil {
		return err
	}
	if err := t.copy(path, path); err != nil {
		return err
	}
	out, err := exec.Command("ldd", path).CombinedOutput()
	if err != nil {
		return nil // a script, or static
	}
	for _, m := range regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1) {
		if err := t.copy(m[1], m[1]); err != nil {
			return err
		}
	}
	return nil
}

func netDial(path string) (net.Conn, error) { return net.Dial("unix", path) }

// pidOf reads the process from what status --json says of one mount.
func pidOf(status []byte) (int, error) {
	pid := 0
	var find func(any)
	find = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if n, ok := v["pid"].(float64); ok && n > 1 {
				pid = int(n)
			}
			for _, e := range v {
				find(e)
			}
		case []any:
			for _, e := range v {
				find(e)
			}
		}
	}
	var all any
	if err := json.Unmarshal(status, &all); err != nil {
		return 0, err
	}
	find(all)
	if pid == 0 {
		return 0, errors.New("status names no process")
	}
	return pid, nil
}
