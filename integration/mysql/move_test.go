package mysql

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMove takes a data directory from the disk onto a mount, works on it
// there, and takes it back to the disk, each time with the server stopped.
func TestMove(t *testing.T) {
	eachProduct(t, func(t *testing.T, p *product) {
		env.results.record(t, p, nil, "data directory moved in by plyfs import, and out")
		disk := filepath.Join(env.scratch, "move-"+p.name)
		t.Cleanup(func() { os.RemoveAll(disk) })
		s := newInstalled(t, p, disk, "--innodb-flush-method=O_DIRECT")
		prepareLedger(t, s)
		s.prepareSysbench(t, 2, size(2000, 200_000))
		want := s.checksums(t)
		s.stop(t)

		v := newVolume(t, group{})
		command(t, v.plyfs("import", disk, v.mnt+"/mysql"))
		command(t, v.plyfs("import", disk, v.mnt+"/mysql")) // again: nothing is left to do
		moved := newServer(t, p, v.mnt+"/mysql", "--innodb-flush-method=O_DIRECT", "--innodb-doublewrite=0")
		moved.mustStart(t)
		wantSame(t, "moved in", moved.checksums(t), want)
		l := startLedger(moved)
		l.await(t, 10)
		l.stop(t)
		want = moved.checksums(t)
		moved.stop(t)

		back := disk + "-back"
		t.Cleanup(func() { os.RemoveAll(back) })
		command(t, exec.Command("cp", "-a", v.mnt+"/mysql", back))
		s = newServer(t, p, back, "--innodb-flush-method=O_DIRECT")
		s.mustStart(t)
		wantSame(t, "moved out", s.checksums(t), want)
		l.verify(t, s)
		s.checkTables(t)
		s.stop(t)
	})
}

// TestFrozenCopy copies the ciphertext of a server under load, with the volume
// frozen, to where the same keys are, and starts a server on the copy.
func TestFrozenCopy(t *testing.T) {
	eachProduct(t, func(t *testing.T, p *product) {
		v := newVolume(t, group{"prod", "db"})
		s := newInstalled(t, p, v.mnt+"/mysql", "--innodb-flush-method=O_DIRECT", "--innodb-doublewrite=0")
		prepareLedger(t, s)
		l := startLedger(s)
		l.await(t, 10)
		env.results.record(t, p, nil, "copy of the ciphertext under load, frozen; server started on it")
		var at [ledgerClients]int64
		for c := range at {
			at[c] = l.acked[c].Load()
		}
		c := v.elsewhere(t)
		command(t, v.plyfs("freeze", v.mnt, "--", "cp", "-a", v.cipher, c.cipher))
		c.startCopy(t, l, at, s)
		l.await(t, 10)
		l.stop(t)
		l.verify(t, s)
		s.stop(t)
	})
}

// elsewhere is a volume with the same keys and no ciphertext yet.
func (v *volume) elsewhere(t *testing.T) *volume {
	t.Helper()
	root := filepath.Join(env.scratch, fmt.Sprintf("v%d", volumeCount.Add(1)))
	check(t, os.MkdirAll(root+"/mnt", 0o755))
	return &volume{root: root, keys: v.keys, cipher: root + "/cipher", mnt: root + "/mnt", logs: root + "/log", opts: v.opts}
}

// startCopy mounts a copy and wants a server on it that has what was
// acknowledged before the copy began.
func (v *volume) startCopy(t *testing.T, l *ledger, at [ledgerClients]int64, s *server) {
	t.Helper()
	v.mustMount(t)
	t.Cleanup(func() { v.close(t) })
	copied := newServer(t, s.product, v.mnt+"/mysql", s.opts[1:]...)
	copied.mustStart(t)
	l.verifyFrom(t, copied, at)
	copied.checkTables(t)
	copied.stop(t)
}
