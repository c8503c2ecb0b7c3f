package main

import (
	"bytes"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listener is a service manager's end of sd_notify(3).
type listener struct {
	t    *testing.T
	conn *net.UnixConn
}

func listen(t *testing.T, path string) *listener {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &listener{t, conn}
}

// next returns the next message.
func (l *listener) next() string {
	l.t.Helper()
	l.conn.SetReadDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 4096)
	n, err := l.conn.Read(b)
	if err != nil {
		l.t.Fatal(err)
	}
	return string(b[:n])
}

// A foreground mount says when it serves and when it closes the volume, to a
// socket in a directory and to an abstract one.
func TestForegroundNotifies(t *testing.T) {
	b := withVolume(t)
	for _, socket := range []string{filepath.Join(b.dir, "notify"), "@plyfs-test-" + filepath.Base(filepath.Dir(b.dir))} {
		l := listen(t, socket)
		var errs bytes.Buffer
		cmd := b.command("plyfs", "mount", "-f", "-o", "", b.cipher, b.mnt)
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+socket)
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if got, want := l.next(), "READY=1\nSTATUS=serving "+b.cipher; got != want {
			t.Errorf("the first message is %q, want %q", got, want)
		}
		b.write("f", "x") // ready means ready
		if err := unix.Unmount(b.mnt, 0); err != nil {
			t.Fatal(err)
		}
		if got := l.next(); !strings.HasPrefix(got, "STOPPING=1\n") {
			t.Errorf("the second message is %q", got)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, &errs)
		}
	}
}

// A mount does not fail because nobody listens, and says so.
func TestForegroundWithoutListener(t *testing.T) {
	b := withVolume(t)
	var errs bytes.Buffer
	cmd := b.command("plyfs", "mount", "-f", b.cipher, b.mnt)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+filepath.Join(b.dir, "nobody"))
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.awaitMount()
	if err := unix.Unmount(b.mnt, 0); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, &errs)
	}
	wantText(t, "standard error", errs.String(), "plyfs: warning: the service manager does not hear")
}
