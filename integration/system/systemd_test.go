package system

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What systemd makes of the units: no complaint, neither by its exit code nor
// on standard error.
func TestUnitsVerify(t *testing.T) {
	m := installed(t)
	drop := func(unit, example string) {
		m.run("install -D -m 644 /usr/share/doc/plyfs/examples/" + example + " /etc/systemd/system/" + unit + ".d/plyfs.conf")
	}
	verify := func(units string) {
		t.Helper()
		if out := m.run("systemd-analyze verify --recursive-errors=yes " + units); out != "" {
			t.Errorf("verify %s says:\n%s", units, out)
		}
	}
	verify(`plyfs@var-lib-mysql.service 'plyfs@srv-with\x20blank.service'`)
	verify("plyfs-docker.service")
	for _, example := range []string{"mariadb-service.conf", "mariadb-fstab.conf"} {
		drop("mariadb.service", example)
		verify("mariadb.service")
	}
	drop("plyfs@var-lib-mysql.service", "credentials.conf")
	verify("plyfs@var-lib-mysql.service")
	// The test can fail.
	m.write("/etc/systemd/system/plyfs@.service.d/x.conf", "[Service]\nExecStart=\nExecStart=/nowhere\n", 0o644)
	if code, out := m.try("systemd-analyze verify plyfs@a.service"); code == 0 || out == "" {
		t.Errorf("a program that is not there passes: %s", out)
	}
}

// What is not there yet, such as a key service, is waited for without end: systemd
// gives a unit up that failed five times in ten seconds, unless told otherwise.
func TestUnitsAreNotGivenUp(t *testing.T) {
	m := installed(t)
	for _, name := range []string{"plyfs@.service", "plyfs-docker.service"} {
		_, text, _ := strings.Cut(m.read("/lib/systemd/system/"+name), "\n[Unit]\n")
		unit, service, _ := strings.Cut(text, "\n[Service]\n")
		wantText(t, name, "\n"+unit+"\n", "\nStartLimitIntervalSec=0\n")
		wantText(t, name, "\n"+service, "\nRestart=", "\nRestartSec=5s\n")
	}
}

// A setting of the unit that makes a mount namespace would hide the mount.
func TestUnitMakesNoNamespace(t *testing.T) {
	m := installed(t)
	for line := range strings.Lines(m.read("/lib/systemd/system/plyfs@.service")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if regexp.MustCompile(`^(Private|Protect(System|Home|Proc|Kernel|Control|Hostname)|ReadOnly|ReadWrite|Inaccessible|Exec(Paths|Search)|NoExec|Bind|Temporary|Root|MountFlags|MountAPI|DynamicUser|ProcSubset|State|Cache|Logs|LogNamespace|IPCNamespace)`).MatchString(name) {
			t.Errorf("%s=%s", name, value)
		}
	}
}

// The mount units that systemd's generator makes of a sample fstab.
func TestFstabGenerator(t *testing.T) {
	m := installed(t)
	m.write("/etc/fstab", strings.Join([]string{
		"/srv/mysql.plyfs /var/lib/mysql plyfs cluster=east,group=db,keystore=/media/keys,x-systemd.requires-mounts-for=/media/keys,x-systemd.mount-timeout=10min 0 0",
		"/srv/net /mnt/net plyfs _netdev 0 0",
		"/srv/auto /mnt/auto fuse.plyfs noauto,x-systemd.automount 0 0",
		"",
	}, "\n"), 0o644)
	m.run("mkdir -p /mnt/net /mnt/auto /srv/mysql.plyfs /srv/net /srv/auto /run/g/a /run/g/b /run/g/c")
	if out := m.run("cd /run/g && /usr/lib/systemd/system-generators/systemd-fstab-generator a b c"); out != "" {
		t.Errorf("the generator says: %s", out)
	}
	mysql := m.read("/run/g/a/var-lib-mysql.mount")
	wantText(t, "the mount unit", mysql, "What=/srv/mysql.plyfs\n", "Where=/var/lib/mysql\n", "Type=plyfs\n", "TimeoutSec=10min\n",
		"RequiresMountsFor=/media/keys\n", "Before=local-fs.target\n", "cluster=east,group=db")
	wantText(t, "the one on a network", m.read("/run/g/a/mnt-net.mount"), "Before=remote-fs.target\n")
	m.read("/run/g/a/mnt-auto.automount")
	for _, link := range []string{"local-fs.target.requires/var-lib-mysql.mount", "remote-fs.target.requires/mnt-net.mount"} {
		if _, err := os.Lstat(m.path("/run/g/a/" + link)); err != nil {
			t.Error(err)
		}
	}
	if out := m.run("systemd-analyze verify /run/g/a/*.mount /run/g/a/*.automount"); out != "" {
		t.Errorf("verify says:\n%s", out)
	}
	// The options that the units hold are those that plyfs takes.
	m.volume()
	m.run("mkdir -p /var/lib/mysql && mount -t plyfs -o nofail,_netdev,x-systemd.mount-timeout=10min /srv/v /mnt/v && umount /mnt/v -c")
}

// The service of the template, started as systemd would: the unit's own
// command line, its variables, a credential, and the socket of sd_notify(3).
func TestService(t *testing.T) {
	m := installed(t)
	m.write("/srv/creds/data-passphrase", "of data", 0o400)
	m.write("/srv/creds/infra-passphrase", "of infra\n", 0o400)
	m.run("p='--data-passphrase-file /srv/creds/data-passphrase --infra-passphrase-file /srv/creds/infra-passphrase'; " +
		"plyfs keystore init $p && plyfs init $p /srv/v && mkdir /mnt/v")
	m.write("/etc/plyfs/mounts/mnt-v.conf", "CIPHERDIR=/srv/v\nOPTIONS=cluster=default,noatime\n", 0o644)
	setting := m.unit(t, "plyfs@.service", "mnt-v", "/mnt/v")
	if setting("Type") != "notify" || setting("NotifyAccess") != "main" {
		t.Error("the unit does not wait for readiness")
	}
	socket := m.path("/run/notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	check(t, err)
	defer l.Close()
	heard := func() string {
		t.Helper()
		l.SetReadDeadline(time.Now().Add(time.Minute))
		b := make([]byte, 4096)
		n, err := l.Read(b)
		check(t, err)
		return string(b[:n])
	}
	for _, stop := range []string{setting("ExecStop"), "kill -TERM $MAINPID", "umount /mnt/v"} {
		var out bytes.Buffer
		service := m.service(setting)
		service.Env = append(service.Env, "NOTIFY_SOCKET=/run/notify", "CREDENTIALS_DIRECTORY=/srv/creds")
		service.Stdout, service.Stderr = &out, &out
		check(t, service.Start())
		if got := heard(); got != "READY=1\nSTATUS=serving /srv/v" {
			t.Errorf("it says %q", got)
		}
		m.wantMounted("/mnt/v", "/srv/v", "noatime", "nosuid")
		m.run("echo x >/mnt/v/f")
		wantText(t, "status", m.run("plyfs status /mnt/v"), "memory locked")
		m.vars = []string{"MAINPID=" + itoa(service.Process.Pid)}
		m.run(setting("ExecReload") + "; " + stop)
		if got := heard(); !strings.HasPrefix(got, "STOPPING=1\n") {
			t.Errorf("it says %q", got)
		}
		if err := service.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", stop, err, &out)
		}
		m.wantNothingMounted()
		m.wantClosed("/srv/v")
	}
	// Without its settings it does not start, and says why.
	m.fails(2, setting("Environment")+"; exec "+setting("ExecStart"), "plyfs: error:")
}

// unit returns how to look up the settings of a template's instance, in the
// syntax of a shell.
func (m *machine) unit(t *testing.T, name, instance, path string) func(setting string) string {
	t.Helper()
	text := m.read("/lib/systemd/system/" + name)
	return func(setting string) string {
		t.Helper()
		found := regexp.MustCompile(`(?m)^` + setting + `=-?(.*)$`).FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("%s has no %s", name, setting)
		}
		// Each word is one argument, whatever a variable holds.
		words := regexp.MustCompile(`\$\{(\w+)\}`).ReplaceAllString(found[1], `"$$$1"`)
		return strings.NewReplacer("%f", path, "%i", instance).Replace(words)
	}
}

// service prepares to run a unit's command with its variables and no capability
// more than it has; the limit of locked memory is below systemd's. What its file
// of variables holds means the same to a shell.
func (m *machine) service(setting func(string) string) *exec.Cmd {
	capabilities := strings.NewReplacer(" ", ",", "cap_", "+").Replace(strings.ToLower(setting("CapabilityBoundingSet")))
	return m.sh("ulimit -l 64; " + setting("Environment") + "; . " + setting("EnvironmentFile") +
		"; exec setpriv --no-new-privs --bounding-set=-all," + capabilities + " " + setting("ExecStart"))
}
