package system

import (
	"strings"
	"syscall"
	"testing"
)

// as returns the machine in the hands of a user.
func (m *machine) as(uid uint32, vars ...string) *machine {
	u := *m
	u.user = &syscall.Credential{Uid: uid, Gid: uid}
	u.vars = vars
	return &u
}

// A user mounts his own volume by fstab and by himself, for himself.
func TestUserMounts(t *testing.T) {
	m := installed(t)
	m.run("groupadd -g 4711 joe && useradd -u 4711 -g 4711 -d /srv/joe joe && install -d -o joe -g joe /srv/joe /srv/joe/mnt && " +
		"groupadd -g 4712 ann && useradd -u 4712 -g 4712 ann")
	joe, ann := m.as(4711, "HOME=/srv/joe"), m.as(4712)
	joe.run("cd && plyfs keystore init --keystore k && plyfs init --keystore k v")
	use := `set -e
cd /srv/joe/mnt
umask 022
echo content >f && mkdir d && mv f d && ln -s d/f l && ln d/f h && cat l h && mkfifo p
setfattr -n user.x -v y d/f && getfattr --only-values -n user.x h && setfacl -m u:4712:r d/f
chmod 4755 d/f && chgrp 4711 d/f && truncate -s 1G sparse && fallocate -l 1M full
dd if=/dev/zero of=big bs=1M count=4 oflag=direct conv=fsync 2>/dev/null && cmp -n 4194304 big /dev/zero
! chown 4712 d/f 2>/dev/null && ! mknod z c 1 5 2>/dev/null
rm -rf d l h p sparse full big
echo content >f`
	for name, by := range map[string]struct{ fstab, mount, umount string }{
		"plyfs mount":          {"", "plyfs mount --keystore /srv/joe/k /srv/joe/v /srv/joe/mnt", "plyfs umount /srv/joe/mnt"},
		"fstab":                {"/srv/joe/v /srv/joe/mnt plyfs user,noauto,exec,keystore=/srv/joe/k 0 0\n", "mount /srv/joe/mnt", "umount /srv/joe/mnt"},
		"fstab, fuse.plyfs":    {"/srv/joe/v /srv/joe/mnt fuse.plyfs users,noauto,keystore=/srv/joe/k 0 0\n", "mount /srv/joe/v", "umount /srv/joe/mnt"},
		"fusermount3 unmounts": {"", "plyfs mount --keystore /srv/joe/k /srv/joe/v /srv/joe/mnt", "fusermount3 -u /srv/joe/mnt"},
	} {
		t.Run(name, func(t *testing.T) {
			m.t, joe.t, ann.t = t, t, t
			m.write("/etc/fstab", by.fstab, 0o644)
			joe.run(by.mount)
			joe.wantMounted("/srv/joe/mnt", "/srv/joe/v", "nosuid", "nodev", "user_id=4711", "!allow_other")
			joe.run(use)
			m.fails(1, "cat /srv/joe/mnt/f", "Permission denied")
			ann.fails(1, "cat /srv/joe/mnt/f", "Permission denied")
			if code, _ := ann.try("umount /srv/joe/mnt"); code == 0 {
				t.Error("another user unmounted it")
			}
			m.fails(32, "mount -o remount,ro /srv/joe/mnt", "what another user than root has mounted cannot be remounted")
			wantText(t, "status", joe.run("plyfs status /srv/joe/mnt"), "serving")
			joe.run(by.umount)
			m.wantNothingMounted()
			joe.run("flock /srv/joe/v/.plyfs/lock true")
		})
	}
	m.t, joe.t, ann.t = t, t, t
	m.write("/etc/fstab", "", 0o644)
	joe.fails(2, "plyfs mount --keystore /srv/joe/k -o suid /srv/joe/v /srv/joe/mnt", "only root mounts with set-user-ID programs")
	joe.fails(11, "plyfs mount --keystore /srv/joe/k -o allow_other /srv/joe/v /srv/joe/mnt", "user_allow_other in /etc/fuse.conf")
	m.write("/etc/fuse.conf", "user_allow_other\n", 0o644)
	joe.run("plyfs mount --keystore /srv/joe/k -o allow_other,ro /srv/joe/v /srv/joe/mnt")
	for _, other := range []*machine{m, ann} {
		if text := other.run("cat /srv/joe/mnt/f"); text != "content\n" {
			t.Errorf("with allow_other others read %q", text)
		}
	}
	// Root may unmount what a user has mounted.
	m.run("umount /srv/joe/mnt && flock /srv/joe/v/.plyfs/lock true")
	// A user cannot mount over what is not his.
	if code, out := joe.try("plyfs mount --keystore /srv/joe/k /srv/joe/v /mnt"); code == 0 || !strings.Contains(out, "plyfs: error:") {
		t.Errorf("mounting over a directory of root's: %d, %s", code, out)
	}
	m.wantNothingMounted()
}
