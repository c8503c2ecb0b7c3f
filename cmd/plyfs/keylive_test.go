package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A group that is added to a mounted volume takes nothing from the first one.
func TestSecondGroupOfALiveVolume(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	b.fleet()
	own, second := b.host("own", "prod", "db-1"), b.host("second", "prod", "db-2")
	b.volume("--cluster", "prod", "--group", "db-1")
	b.mount("-o", "cluster=prod,group=db-1,revalidate=1h,grace=0")
	for _, layer := range []string{"data", "infra"} {
		b.run(exitOK, "key", "add", "--layer", layer, "--group", "db-2", b.mnt)
	}
	b.run(exitOK, "revalidate", b.mnt)
	b.run(exitOK, "umount", b.mnt)
	for group, keys := range map[string]string{"db-1": own, "db-2": second} {
		b.mount("--keystore", keys, "--group", group)
		b.run(exitOK, "umount", b.mnt)
	}
	b.run(exitAssertion, "mount", "-o", "group=db-3", b.cipher, b.mnt)
	b.run(exitAssertion, "mount", "-o", "cluster=stage,group=db-1", b.cipher, b.mnt)
}

// An older copy that was accepted stays mounted beside the newest one.
func TestOlderCopyBesideTheNewest(t *testing.T) {
	b := withVolume(t)
	old := filepath.Join(b.dir, "old")
	b.copyTree(b.cipher, old)
	b.mount("-o", "revalidate=1h,grace=0")
	b.run(exitOK, "key", "rotate", b.mnt)
	mnt := filepath.Join(b.dir, "mnt-old")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	b.run(exitTampered, "mount", old, mnt)
	b.run(exitOK, "mount", "-o", "accept-rollback=all,revalidate=1h,grace=0", old, mnt)
	b.run(exitOK, "key", "rotate", b.mnt) // this host has seen a newer state again
	b.run(exitOK, "revalidate", mnt)
	b.run(exitOK, "revalidate", b.mnt)
	first, err := os.ReadFile(filepath.Join(old, "plyfs.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"plyfs.json", "plyfs.json.bak"} {
		b.file("cipher/"+name, string(first))
	}
	b.run(exitInaccessible, "revalidate", b.mnt) // older than it has seen
	b.run(exitOK, "umount", mnt)
	b.run(exitOK, "umount", b.mnt)
}

// A mount without the customer's key is not had by what a change of keys that was
// cut short left: the config from before it.
func TestDeniedAfterACrash(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	b.run(exitOK, "keystore", "init")
	cmk := b.provider("kms")
	b.volume()
	config := filepath.Join(b.cipher, "plyfs.json")
	old, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(cmk, []byte("v1"), 0o600)
	b.run(exitOK, "key", "add", "--layer", "data", "--provider", "kms", b.cipher)
	b.file("cipher/plyfs.json", string(old))
	os.RemoveAll(filepath.Join(b.dir, "state")) // a host that has not seen it
	os.WriteFile(cmk, []byte("disabled"), 0o600)
	b.run(exitDenied, "mount", b.cipher, b.mnt)
	os.WriteFile(cmk, []byte("v1"), 0o600)
	b.mount("-o", "revalidate=1h")
	b.sameConfigs(b.cipher)
	b.file("cipher/plyfs.json", string(old))
	os.WriteFile(cmk, []byte("disabled"), 0o600)
	b.run(exitInaccessible, "revalidate", b.mnt)
	b.run(exitOK, "umount", b.mnt)
}

// A change of keys does not wait for a validation whose provider hangs.
func TestChangeDuringAValidation(t *testing.T) {
	needMounts(t)
	b := newBench(t)
	b.run(exitOK, "keystore", "init")
	cmk := b.provider("kms")
	b.file("providers/kms.json", fmt.Sprintf(`{"program":"file","settings":{"key":%q},"env":["%s=1"],"tries":1,"timeout":"3m"}`, cmk, asKeyProgram))
	b.volume("--provider", "kms")
	b.mount("-o", "revalidate=1h")
	os.Rename(cmk, cmk+".away")
	if err := unix.Mkfifo(cmk, 0o600); err != nil {
		t.Fatal(err)
	}
	validation := b.command("plyfs", "revalidate", b.mnt)
	if err := validation.Start(); err != nil {
		t.Fatal(err)
	}
	// Opening the other end succeeds once the provider waits at it.
	var hang *os.File
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		fd, err := unix.Open(cmk, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			hang = os.NewFile(uintptr(fd), cmk)
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the provider is not asked: %v", err)
		}
	}
	if err := os.Rename(cmk+".away", cmk); err != nil {
		t.Fatal(err)
	}
	b.run(exitOK, "key", "rotate", b.mnt)
	if _, err := hang.WriteString("v1"); err != nil { // it hangs still
		t.Error(err)
	}
	hang.Close()
	if err := validation.Wait(); err != nil {
		t.Errorf("revalidate: %v", err)
	}
	b.run(exitOK, "revalidate", b.mnt)
	b.run(exitOK, "umount", b.mnt)
}
