package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// audited are the events in a file, which must all be of the documented form.
func (b *bench) audited(path string) (events []auditEvent) {
	b.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		d := json.NewDecoder(strings.NewReader(s.Text()))
		d.DisallowUnknownFields()
		var e auditEvent
		if err := d.Decode(&e); err != nil {
			b.t.Fatalf("audit line %q: %v", s.Text(), err)
		}
		if e.Time.IsZero() || e.Event == "" || e.Result == "" || e.MountPoint != b.mnt || e.CipherDir != b.cipher || e.PID == 0 {
			b.t.Errorf("audit line %q lacks something", s.Text())
		}
		events = append(events, e)
	}
	return events
}

// awaitAudit waits for an event of a kind.
func (b *bench) awaitAudit(path string, want func(*auditEvent) bool) auditEvent {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		events := b.audited(path)
		for i := range events {
			if want(&events[i]) {
				return events[i]
			}
		}
		if time.Now().After(end) {
			b.t.Fatalf("the event never comes: %+v", events)
		}
	}
}

func TestAuditOfKeys(t *testing.T) {
	b := withVolume(t)
	log := filepath.Join(b.dir, "audit/log")
	is := func(event string, result auditResult) func(*auditEvent) bool {
		return func(e *auditEvent) bool { return e.Event == event && e.Result == result }
	}
	back := b.hide(filepath.Join(b.keys, "data.key"))
	b.run(exitNotVolume, "mount", "-o", "audit="+log, b.cipher, b.mnt)
	if e := b.awaitAudit(log, is("unlock", auditUnknown)); e.Reason == "" {
		t.Errorf("%+v", e)
	}
	back()
	b.mount("-o", "audit="+log+",grace=0")
	st, err := os.Stat(log)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if e := b.awaitAudit(log, is("unlock", auditOK)); len(e.Volume) != 32 || len(e.Keys) != 2 || e.Keys[1].Layer != 2 || e.Keys[1].By == "" {
		t.Errorf("%+v", e)
	}
	back = b.hide(filepath.Join(b.keys, "data.key"))
	b.run(exitInaccessible, "revalidate", b.mnt)
	b.awaitAudit(log, is("revalidate", auditUnknown))
	b.awaitAudit(log, is("inaccessible", auditOK))
	back()
	// It goes on in a new file after a SIGHUP.
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(b.daemon().PID, unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if there, _ := exists(log); there {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the audit log is not opened anew")
		}
	}
	b.run(exitOK, "revalidate", b.mnt)
	b.awaitAudit(log, is("available", auditOK))
}

func TestAuditOfDamage(t *testing.T) {
	b := withVolume(t)
	log := filepath.Join(b.dir, "audit.log")
	b.mount()
	b.write("f", strings.Repeat("content.", 100_000))
	b.run(exitOK, "umount", b.mnt)
	// The one file of the volume that is as long.
	var sealed string
	filepath.WalkDir(b.cipher, func(path string, d os.DirEntry, err error) error {
		if i, e := d.Info(); e == nil && i.Mode().IsRegular() && i.Size() > 800_000 && !strings.Contains(path, "/.plyfs/") {
			sealed = path
		}
		return err
	})
	f, err := os.OpenFile(sealed, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for block := range int64(100) {
		if _, err := f.WriteAt([]byte("damage"), 4096*(block+2)); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	b.mount("-o", "audit="+log)
	open, err := os.Open(filepath.Join(b.mnt, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	for block := range int64(100) {
		if _, err := open.ReadAt(make([]byte, 100), 4096*block); !errors.Is(err, unix.EIO) && block > 2 && block < 90 {
			t.Errorf("block %d: %v, want EIO", block, err)
		}
	}
	e := b.awaitAudit(log, func(e *auditEvent) bool { return e.Event == "authentication-failure" })
	if e.Object != "block" || e.Layer != 2 || e.Layers != "infra" || len(e.File) != 32 || e.Block == nil || e.Result != auditFailed || len(e.Volume) != 32 {
		t.Errorf("%+v", e)
	}
	if n := len(b.audited(log)); n > 20 {
		t.Errorf("%d events of one damaged file", n)
	}
}

// Names and attributes that do not open say in which layer; what no layer made
// says that it is not known.
func TestAuditOfNamesAndXattrs(t *testing.T) {
	b := withVolume(t)
	log := filepath.Join(b.dir, "audit.log")
	b.mount()
	b.write("f", "content")
	b.write("moved", "content")
	if err := unix.Setxattr(filepath.Join(b.mnt, "f"), "user.a", []byte("value"), 0); err != nil {
		t.Fatal(err)
	}
	b.run(exitOK, "umount", b.mnt)
	entries, err := os.ReadDir(b.cipher)
	if err != nil {
		t.Fatal(err)
	}
	var attr string
	for _, e := range entries {
		path := filepath.Join(b.cipher, e.Name())
		list := make([]byte, 4096)
		n, err := unix.Listxattr(path, list)
		if err != nil {
			t.Fatal(err)
		}
		if name, _, _ := strings.Cut(string(list[:n]), "\x00"); name != "" {
			attr = name
			value := make([]byte, 4096)
			n, err := unix.Getxattr(path, attr, value)
			if err != nil {
				t.Fatal(err)
			}
			value[n-1] ^= 1
			if err := unix.Setxattr(path, attr, value[:n], 0); err != nil {
				t.Fatal(err)
			}
		} else if strings.HasPrefix(e.Name(), "plyfs.") || e.Name()[0] == '.' {
			continue
		} else if err := os.Rename(path, filepath.Join(b.cipher, flipped(e.Name()))); err != nil {
			t.Fatal(err)
		}
	}
	b.file("cipher/AAAA", "")
	b.mount("-o", "audit="+log)
	if _, err := os.ReadDir(b.mnt); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Getxattr(filepath.Join(b.mnt, "f"), "user.a", make([]byte, 100)); !errors.Is(err, unix.EIO) {
		t.Errorf("attribute: %v, want EIO", err)
	}
	failure := func(object string, layers auditLayers) auditEvent {
		return b.awaitAudit(log, func(e *auditEvent) bool {
			return e.Event == "authentication-failure" && e.Object == object && e.Layers == layers
		})
	}
	if e := failure("xattr", "infra"); e.Layer != 2 || e.Name != attr || e.Inode == 0 {
		t.Errorf("%+v", e)
	}
	if e := failure("name", "infra"); e.Layer != 2 || e.Name == "" {
		t.Errorf("%+v", e)
	}
	if e := failure("name", auditLayerUnknown); e.Layer != 0 || e.Name != "AAAA" {
		t.Errorf("%+v", e)
	}
}

// flipped is a sealed name with one other character.
func flipped(name string) string {
	c := byte('A')
	if name[0] == c {
		c = 'B'
	}
	return string(c) + name[1:]
}

func TestAuditNeedsItsPlace(t *testing.T) {
	b := withVolume(t)
	r := b.as("plyfs", "mount", "-o", "audit="+b.cipher, b.cipher, b.mnt)
	if r.code == 0 || !strings.Contains(r.stderr, "audit log") {
		t.Errorf("an audit log that is a directory: %v", r)
	}
}
