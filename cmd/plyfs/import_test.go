package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plyfs/plyfs/cmd/internal/treecopy"
)

func TestImport(t *testing.T) {
	b := withVolume(t)
	from := filepath.Join(b.dir, "datadir")
	if err := os.MkdirAll(filepath.Join(from, "db"), 0o750); err != nil {
		t.Fatal(err)
	}
	large := bytes.Repeat([]byte("a row of a table\n"), 300_000)
	if err := os.WriteFile(filepath.Join(from, "ibdata1"), large, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "db/t.ibd"), []byte("table"), 0o640); err != nil {
		t.Fatal(err)
	}
	r := b.run(exitNotMounted, "import", from, b.mnt)
	wantText(t, "standard error", r.stderr, "not in a mounted volume", "plyfs: hint: ")
	b.mount()

	// A server that still runs is named.
	open, err := os.OpenFile(filepath.Join(from, "ibdata1"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	r = b.run(exitBusy, "import", from, b.mnt)
	wantText(t, "standard error", r.stderr, "is in use", "stop ")
	open.Close()

	// Also one that has its files open by another path, as in a container.
	other := filepath.Join(b.dir, "other-path")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(from, other, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	open, err = os.OpenFile(filepath.Join(other, "db/t.ibd"), os.O_RDWR, 0)
	if err == nil {
		err = unix.Unmount(other, unix.MNT_DETACH)
	}
	if err != nil {
		t.Fatal(err)
	}
	r = b.run(exitBusy, "import", from, b.mnt)
	wantText(t, "standard error", r.stderr, "is in use", "stop ")
	open.Close()

	// An import that was interrupted goes on.
	work := filepath.Join(b.mnt, treecopy.WorkDir)
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	r = b.run(exitOK, "import", "--json", from, b.mnt)
	var result treecopy.Result
	if err := json.Unmarshal([]byte(r.stdout), &result); err != nil || result.Files != 2 || result.Bytes != int64(len(large)+5) {
		t.Errorf("result %+v, %v", result, err)
	}
	if got, err := os.ReadFile(filepath.Join(b.mnt, "ibdata1")); err != nil || !bytes.Equal(got, large) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if st, err := os.Stat(filepath.Join(b.mnt, "db")); err != nil || st.Mode().Perm() != 0o750 {
		t.Errorf("directory: %v, %v", st, err)
	}
	if _, err := os.Stat(work); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", work, err)
	}

	r = b.run(exitOK, "import", from, filepath.Join(b.mnt, "new"))
	wantText(t, "standard output", r.stdout, "2 files copied and verified, 0 present already")
	if strings.Contains(r.stderr, "does not have") {
		t.Errorf("of a new directory it says %s", r.stderr)
	}
	b.write("new/db/later.ibd", "")
	r = b.run(exitOK, "import", from, filepath.Join(b.mnt, "new"))
	wantText(t, "standard output", r.stdout, "0 files copied and verified, 2 present already")
	wantText(t, "standard error", r.stderr, "1 in ", `does not have: ["db/later.ibd"]`)
	b.write("new/db/t.ibd", "other")
	r = b.run(exitExists, "import", from, filepath.Join(b.mnt, "new"))
	wantText(t, "standard error", r.stderr, "nothing is overwritten")
	r = b.run(exitUsage, "import", filepath.Join(b.mnt, "new"), b.mnt)
	wantText(t, "standard error", r.stderr, "lies in")
	b.run(exitUsage, "import", b.mnt, filepath.Join(b.mnt, "new/inside"))
	b.run(exitOK, "umount", b.mnt)
}

// Another mount namespace, such as a container's, has files of its own at the same
// path: who writes them does not use the source.
func TestImportBesideTheSamePathElsewhere(t *testing.T) {
	b := parted(t)
	b.mount()
	from := filepath.Join(b.dir, "datadir")
	if err := os.Mkdir(from, 0o700); err != nil {
		t.Fatal(err)
	}
	b.file("datadir/ibdata1", "a table")
	server := exec.Command("sh", "-c", `mount -t tmpfs other "$0" && exec 5>"$0/ibdata1" && echo && exec cat`, from)
	end, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	ready, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	b.elsewhere(server)
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	b.run(exitOK, "import", from, b.mnt)
	end.Close()
	if err := server.Wait(); err != nil {
		t.Error(err)
	}
	b.wantFile("ibdata1", "a table")
	b.run(exitOK, "umount", b.mnt)
}
