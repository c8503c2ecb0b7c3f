package system

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// readmeBlock is the first block of commands under a heading, at most ten
// lines.
func readmeBlock(t *testing.T, heading string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(env.source, "README.md"))
	check(t, err)
	_, section, ok := strings.Cut(string(b), "\n"+heading+"\n")
	_, block, ok2 := strings.Cut(section, "```sh\n")
	block, _, ok3 := strings.Cut(block, "```")
	if !ok || !ok2 || !ok3 {
		t.Fatalf("no block of commands under %s", heading)
	}
	if n := strings.Count(block, "\n"); n > 10 {
		t.Errorf("%s has %d lines", heading, n)
	}
	return block
}

// What the README says of fstab and systemd, as written. systemctl enables
// units here, but no systemd runs: the service is started as its unit says.
func TestReadme(t *testing.T) {
	m := installed(t)
	fstab := readmeBlock(t, "### fstab")
	before, after, ok := strings.Cut(fstab, "umount ")
	if !ok {
		t.Fatal("the README unmounts nothing")
	}
	m.run(before)
	m.wantMounted("/mnt/mysql", "/srv/mysql.plyfs", "rw", "nosuid", "nodev")
	m.run("echo x >/mnt/mysql/f && umount " + after)
	m.wantNothingMounted()
	m.wantClosed("/srv/mysql.plyfs")

	m.run("mkdir -p /var/lib/mysql")
	m.vars = []string{"SYSTEMD_OFFLINE=1"}
	m.run(readmeBlock(t, "### systemd"))
	if out := m.run("systemd-analyze verify mariadb.service plyfs@var-lib-mysql.service"); out != "" {
		t.Errorf("verify says:\n%s", out)
	}
	wantText(t, "what is enabled", m.run("systemctl is-enabled plyfs@var-lib-mysql"), "enabled")
	setting := m.unit(t, "plyfs@.service", "var-lib-mysql", "/var/lib/mysql")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path("/run/notify"), Net: "unixgram"})
	check(t, err)
	defer l.Close()
	service := m.service(setting)
	service.Env = append(service.Env, "NOTIFY_SOCKET=/run/notify")
	check(t, service.Start())
	check(t, l.SetReadDeadline(time.Now().Add(time.Minute)))
	text := make([]byte, 100)
	n, err := l.Read(text)
	if err != nil || !strings.HasPrefix(string(text[:n]), "READY=1") {
		t.Errorf("the service says %q, %v", text[:n], err)
	}
	m.wantMounted("/var/lib/mysql", "/srv/mysql.plyfs", "noatime")
	m.run("grep -qx x /var/lib/mysql/f")
	m.run(setting("ExecStop"))
	if err := service.Wait(); err != nil {
		t.Error(err)
	}
	m.wantNothingMounted()
}
