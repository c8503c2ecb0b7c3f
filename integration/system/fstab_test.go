package system

import (
	"strings"
	"testing"
)

// A line of fstab mounts once however often it is asked for, in each of the
// two types, with all that lines of fstab have.
func TestFstab(t *testing.T) {
	m := installed(t)
	m.volume()
	m.run("mkdir -p /mnt/w && ln -s /srv/v /srv/link && ln -s /mnt/v /mnt/link")
	for _, tt := range []struct {
		line    string
		options []string
	}{
		{"/srv/v /mnt/v plyfs defaults 0 0", []string{"rw", "nosuid", "nodev", "relatime", "allow_other", "default_permissions"}},
		{"/srv/v /mnt/v fuse.plyfs defaults 0 0", []string{"rw", "nosuid", "nodev"}},
		{"/srv/v /mnt/v plyfs ro,noexec,noatime,nofail,_netdev,x-systemd.automount,x-systemd.mount-timeout=10min,x-gvfs-hide,comment=a,noallow_other 0 0",
			[]string{"ro", "noexec", "noatime", "!allow_other"}},
		{"/srv/v /mnt/v plyfs rw,suid,dev,exec,async,atime,diratime,relatime,default_permissions,allow_other,fsname=/srv/v,subtype=plyfs 0 0",
			[]string{"rw", "nosuid", "nodev", "!noexec"}}, // mount(8) keeps suid and dev to itself
		{"/srv/v /mnt/v plyfs users 0 0", []string{"nosuid", "nodev", "noexec"}},
		{"/srv/v /mnt/v plyfs owner,group,nouser 0 0", []string{"nosuid", "nodev", "!noexec"}},
		{"/srv/v /mnt/v plyfs keystore=/etc/plyfs/keystore,cluster=default,group=default,layers=2,journal-size=16M,log=/srv/log 0 0", []string{"rw"}},
		{"/srv/link /mnt/link plyfs defaults 0 0", []string{"rw"}},
	} {
		m.write("/etc/fstab", "# comment\n"+tt.line+"\n", 0o644)
		m.run("mount -a && mount -a")
		m.wantMounted("/mnt/v", "/srv/v", tt.options...)
		m.run("umount -a -t fuse.plyfs")
		m.wantNothingMounted()
		m.wantClosed("/srv/v")
		m.run("mount " + strings.Fields(tt.line)[1])
		m.wantMounted("/mnt/v", "/srv/v", tt.options...)
		m.run("umount /mnt/v")
	}
	m.write("/etc/fstab", "/srv/v /mnt/v plyfs noauto 0 0\n", 0o644)
	m.run("mount -a")
	m.wantNothingMounted()
	m.run("mount /srv/v && umount /mnt/v")
	// Another file than the machine's own.
	m.write("/etc/fstab", "", 0o644)
	m.write("/srv/fstab", "/srv/v /mnt/v plyfs ro 0 0\n", 0o644)
	m.run("mount -a -T /srv/fstab && mount -a --fstab /srv/fstab")
	m.wantMounted("/mnt/v", "/srv/v", "ro")
	m.run("umount /mnt/v")
	m.write("/etc/fstab", "/srv/none /mnt/w plyfs defaults 0 0\n", 0o644)
	m.fails(7, "mount -a || exit 7", "plyfs: error:")
}

// What is wrong is said, with the codes of mount(8).
func TestMountRefuses(t *testing.T) {
	m := installed(t)
	m.volume()
	m.run("mkdir -p /mnt/w /srv/empty")
	for _, tt := range []struct {
		code  int
		args  string
		parts []string
	}{
		{1, "-o keystroe=/x /srv/v /mnt/v", []string{`unknown mount option: "keystroe"`, "did you mean keystore?"}},
		{1, "-o noatme /srv/v /mnt/v", []string{`unknown mount option: "noatme"`, "did you mean noatime?"}},
		{1, "-o layers=3 /srv/v /mnt/v", []string{"it is 1 or 2"}},
		{1, "-o fsname=/srv/w /srv/v /mnt/v", []string{"fsname"}},
		{1, "-o subtype=ntfs /srv/v /mnt/v", []string{"subtype"}},
		{1, "-o data-passphrase=hunter2 /srv/v /mnt/v", []string{"a secret cannot be given as a mount option", "data-passphrase-file=FILE", "data-passphrase-program=PATH"}},
		{32, "-o layers=1 /srv/v /mnt/v", []string{"2 layers"}},
		{32, "-o cluster=other /srv/v /mnt/v", []string{`not "other"`}},
		{32, "/srv/empty /mnt/v", []string{"is not a plyfs volume"}},
		{32, "/srv/none /mnt/v", []string{"no such file or directory"}},
		{32, "/srv/v /mnt/none", []string{"/mnt/none"}},
	} {
		m.fails(tt.code, "mount -t plyfs "+tt.args, tt.parts...)
	}
	m.wantNothingMounted()
	m.run("mount -s -t plyfs -o frobnicate /srv/v /mnt/v")
	m.fails(32, "mount -t plyfs /srv/v /mnt/w", "is mounted at /mnt/v already")
	m.wantMounted("/mnt/v", "/srv/v")
	m.fails(32, "umount /mnt/w", "not mounted")
	m.fails(32, "cd /mnt/v && umount /mnt/v", "/mnt/v is busy", "in use by sh")
	m.fails(32, "umount.fuse.plyfs /mnt/w", "no plyfs volume is mounted there")
	m.fails(1, "umount.fuse.plyfs /mnt/v -x", "unknown flag -x")
	m.run("umount /mnt/v")
}

// The flags that mount(8) hands on.
func TestMountFlags(t *testing.T) {
	m := installed(t)
	m.volume()
	for _, fstype := range []string{"plyfs", "fuse.plyfs"} {
		m.run("mount -f -t " + fstype + " /srv/v /mnt/v")
		m.wantNothingMounted()
		m.fails(1, "mount -f -t "+fstype+" -o frob /srv/v /mnt/v", "unknown mount option")
		out := m.run("mount -n -v -r -t " + fstype + " /srv/v /mnt/v")
		wantText(t, "mount -v", out, "/srv/v on /mnt/v type fuse.plyfs")
		m.wantMounted("/mnt/v", "/srv/v", "ro")
		wantText(t, "umount -v", m.run("umount -v -n /mnt/v"), "/mnt/v unmounted")
		m.run("cd /srv && mount -w -t " + fstype + " v ../mnt/v")
		m.wantMounted("/mnt/v", "/srv/v", "rw")
		m.run("umount /mnt/v")
	}
	// By way of mount.fuse3, where the link is not installed.
	m.run("rm /usr/sbin/mount.fuse.plyfs && mount -t fuse.plyfs -o noexec /srv/v /mnt/v")
	m.wantMounted("/mnt/v", "/srv/v", "nosuid", "nodev", "noexec")
	m.run("mount -o remount,ro /mnt/v")
	m.wantMounted("/mnt/v", "/srv/v", "nosuid", "nodev", "noexec", "ro")
	m.run("umount /mnt/v")
}

// umount(8) takes each name of the mountpoint, and returns when the volume is
// closed: the next command finds it clean and at rest.
func TestUmount(t *testing.T) {
	m := installed(t)
	m.volume()
	m.run("ln -s /mnt/v /mnt/link")
	for _, by := range []string{
		"umount /mnt/v", "umount /mnt/v/", "umount /mnt/link", "cd /mnt && umount v", "cd /mnt && umount ./v", "cd /srv && umount v",
		"umount -c /srv/v", "plyfs umount /srv/v", "umount -f /mnt/v", "umount -r /mnt/v", "umount -t fuse.plyfs -a", "umount -R /mnt/v", "umount -A /mnt/v",
	} {
		m.run("mount -t plyfs /srv/v /mnt/v && head -c 3000000 /dev/urandom >/mnt/v/f && sha256sum </mnt/v/f >/srv/sum")
		m.run(by + " && rm -rf /srv/copy && cp -a /srv/v /srv/copy")
		m.wantNothingMounted()
		m.wantClosed("/srv/v")
		m.run("mount -t plyfs -o ro /srv/copy /mnt/v && sha256sum </mnt/v/f | cmp - /srv/sum && umount /mnt/v")
	}
	// Lazily it goes at once, and the daemon serves what is open.
	m.run(`mount -t plyfs /srv/v /mnt/v
exec 3>/mnt/v/lazy
umount -l /mnt/v
echo written >&3
exec 3>&-`)
	m.wantNothingMounted()
	// The next mount waits for it.
	m.run("mount -t plyfs /srv/v /mnt/v && grep -q written /mnt/v/lazy")
	// -r makes it read-only where it is busy.
	wantText(t, "umount -r", m.run("exec 3</mnt/v/lazy; umount -r /mnt/v"), "busy, and read-only now")
	m.wantMounted("/mnt/v", "/srv/v", "ro")
	m.run("umount /mnt/v")
}

// A remount changes flags, settles the ciphertext, and says why it cannot.
func TestRemount(t *testing.T) {
	m := installed(t)
	m.volume()
	for _, fstab := range []string{"", "/srv/v /mnt/v plyfs noatime,cluster=default,nofail 0 0\n", "/srv/v /mnt/v fuse.plyfs defaults 0 0\n"} {
		m.write("/etc/fstab", fstab, 0o644)
		m.run("mount -t plyfs -o noatime /srv/v /mnt/v && echo content >/mnt/v/f")
		m.fails(32, "exec 3>/mnt/v/g; mount -o remount,ro /mnt/v", "busy", "in use by sh")
		m.run("mount -o remount,ro /mnt/v && rm -rf /srv/copy && cp -a /srv/v /srv/copy")
		m.wantMounted("/mnt/v", "/srv/v", "ro", "nosuid", "nodev")
		m.fails(2, "echo >/mnt/v/f")
		m.run("mount -o remount,rw,noexec /mnt/v && echo more >>/mnt/v/f")
		m.wantMounted("/mnt/v", "/srv/v", "rw", "noexec", "nosuid", "nodev")
		m.fails(1, "mount -o remount,layers=1 /mnt/v", `cannot change this option: "layers"`)
		m.run("umount /mnt/v && mount -t plyfs -o ro,accept-rollback /srv/copy /mnt/v && grep -qx content /mnt/v/f && umount /mnt/v")
	}
}

// A passphrase comes from a program or a file that fstab names.
func TestFstabPassphrases(t *testing.T) {
	m := installed(t)
	m.write("/etc/plyfs/ask", "#!/bin/sh\necho \"the $1 passphrase\"\n", 0o700)
	m.write("/etc/plyfs/infra", "the infra passphrase\n", 0o600)
	m.run("mkdir /mnt/v; p='--data-passphrase-program /etc/plyfs/ask --infra-passphrase-program /etc/plyfs/ask'; plyfs keystore init $p && plyfs init $p /srv/v")
	m.write("/etc/fstab", "/srv/v /mnt/v plyfs data-passphrase-program=/etc/plyfs/ask,infra-passphrase-file=/etc/plyfs/infra 0 0\n", 0o644)
	m.run("mount -a && mount -a && echo x >/mnt/v/f && umount /mnt/v")
	m.write("/etc/plyfs/ask", "#!/bin/sh\necho wrong\n", 0o700)
	m.fails(32, "mount /mnt/v", "plyfs: error:")
	m.write("/etc/plyfs/ask", "#!/bin/sh\nexit 3\n", 0o700)
	m.fails(32, "mount /mnt/v", "program /etc/plyfs/ask: exit status 3")
	m.write("/etc/plyfs/ask", "#!/bin/sh\necho the data passphrase\n", 0o777)
	m.fails(1, "mount /mnt/v", "others can write to it")
	m.wantNothingMounted()
}
