package provider_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plyfs/plyfs/keystore"
	"github.com/plyfs/plyfs/keystore/provider"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

func TestClientWrapsAndUnwraps(t *testing.T) {
	c := newHost(t).open(t, "", fakeSettings{}, "")
	secret := []byte("0123456789abcdef0123456789abcdef")
	wrapped, err := c.Wrap(t.Context(), names, secret)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Unwrap(t.Context(), names, wrapped)
	if err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestClientDescribesKeyOfNames(t *testing.T) {
	c := newHost(t).open(t, "", fakeSettings{Key: "k"}, "")
	got, err := c.Describe(t.Context(), names)
	want := protocol.Description{Program: "fake 1", Service: "none", Key: "k/east/db"}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestClientGivesEnvironmentOfFileAlone(t *testing.T) {
	h := newHost(t)
	h.Environ = []string{"AWS_REGION=r", "AWS_PROFILE=p", "HOME=/h", "SECRET=s", "AWS=no", "LD_PRELOAD=/evil", "EMPTY="}
	c := h.open(t, "environ", fakeSettings{}, `, "env": ["FAKE=environ", "AWS_*", "HOME", "L*", "EMPTY", "ABSENT"]`)
	got, err := c.Describe(t.Context(), names)
	if err != nil {
		t.Fatal(err)
	}
	want := "PATH=" + h.Path + " LC_ALL=C.UTF-8 FAKE=environ AWS_REGION=r AWS_PROFILE=p HOME=/h EMPTY="
	if got.Key != protocol.Line(want, protocol.MaxText) {
		t.Errorf("got  %s\nwant %s", got.Key, want)
	}
}

// What a program does wrong is no answer; only its own word is a no.
func TestClientErrors(t *testing.T) {
	for _, test := range []struct {
		mode string
		want error
		text string
	}{
		{"denied", keystore.ErrDenied, "key is disabled [2J by east"},
		{"unavailable", keystore.ErrUnavailable, "connection refused"},
		{"panic", keystore.ErrUnavailable, "made no sense"},
		{"silent", keystore.ErrUnavailable, "not of the protocol"},
		{"nonsense", keystore.ErrUnavailable, "not of the protocol"},
		{"html", keystore.ErrUnavailable, "not of the protocol"},
		{"endless", keystore.ErrUnavailable, "more than 65536 bytes"},
		{"other-request", keystore.ErrUnavailable, "answered another request"},
		{"other-version", keystore.ErrUnavailable, "version 2"},
		{"two-results", keystore.ErrUnavailable, "2 results"},
		{"no-result", keystore.ErrUnavailable, "0 results"},
		{"wrong-result", keystore.ErrUnavailable, "no result of unwrap"},
		{"unknown-member", keystore.ErrUnavailable, "not of the protocol"},
		{"unknown-kind", keystore.ErrUnavailable, "unknown kind: who knows"},
		{"exit-status", keystore.ErrUnavailable, "exit status 3"},
		{"killed", keystore.ErrUnavailable, "signal 9"},
	} {
		t.Run(test.mode, func(t *testing.T) {
			c := newHost(t).open(t, test.mode, fakeSettings{File: filepath.Join(t.TempDir(), "count")}, "")
			secret, err := c.Unwrap(t.Context(), names, []byte("fake-wrapped:secret"))
			if secret != nil || !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Fatalf("got %q, %v", secret, err)
			}
			for _, other := range []error{keystore.ErrDenied, keystore.ErrUnavailable, keystore.ErrTampered, keystore.ErrUsage} {
				if other != test.want && errors.Is(err, other) {
					t.Errorf("%v is %v too", err, other)
				}
			}
			if !strings.Contains(err.Error(), "plyfs-key-fake") {
				t.Errorf("%v does not name the program", err)
			}
		})
	}
}

func TestClientTellsBytesOfAnotherKey(t *testing.T) {
	c := newHost(t).open(t, "", fakeSettings{}, "")
	if _, err := c.Unwrap(t.Context(), names, []byte("others")); !errors.Is(err, keystore.ErrTampered) {
		t.Errorf("got %v", err)
	}
}

func TestClientRefusesBeforeAsking(t *testing.T) {
	c := newHost(t).open(t, "hang", fakeSettings{}, "")
	if _, err := c.Wrap(t.Context(), keystore.Names{Cluster: "../x", Group: "db"}, []byte("s")); !errors.Is(err, keystore.ErrName) {
		t.Errorf("name: got %v", err)
	}
	if _, err := c.Wrap(t.Context(), names, nil); !errors.Is(err, keystore.ErrUsage) {
		t.Errorf("no secret: got %v", err)
	}
	if _, err := c.Unwrap(t.Context(), names, make([]byte, keystore.MaxWrapped+1)); !errors.Is(err, keystore.ErrUsage) {
		t.Errorf("long: got %v", err)
	}
}

func TestClientTriesAgainWhatMayPass(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	c := newHost(t).open(t, "flaky", fakeSettings{File: count}, "")
	if _, err := c.Unwrap(t.Context(), names, []byte("fake-wrapped:s")); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(count); len(b) != 3 {
		t.Errorf("tried %d times", len(b))
	}
}

func TestClientGivesUpAfterItsTries(t *testing.T) {
	h := newHost(t)
	count := filepath.Join(t.TempDir(), "count")
	c := h.open(t, "unavailable", fakeSettings{File: count}, `, "tries": 4`)
	if _, err := c.Unwrap(t.Context(), names, []byte("x")); !errors.Is(err, keystore.ErrUnavailable) {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(count); len(b) != 4 {
		t.Errorf("tried %d times", len(b))
	}
	if got := h.logged(); strings.Count(got, "of 4:") != 3 {
		t.Errorf("log: %s", got)
	}
}

// pidIn waits for a process ID in a file.
func pidIn(t *testing.T, file string) int {
	t.Helper()
	for range 6000 {
		if b, err := os.ReadFile(file); err == nil && len(b) > 0 {
			pid, err := strconv.Atoi(string(b))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nothing wrote %s", file)
	return 0
}

// gone waits until a process is dead, or a zombie of somebody else.
func gone(t *testing.T, pid int) {
	t.Helper()
	for range 6000 {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("process %d lives on", pid)
}

func TestClientKillsProgramThatHangs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	c := newHost(t).open(t, "hang", fakeSettings{File: file}, `, "timeout": "1s", "tries": 1`)
	_, err := c.Unwrap(t.Context(), names, []byte("x"))
	if !errors.Is(err, keystore.ErrUnavailable) || !strings.Contains(err.Error(), "no answer within 1s") {
		t.Fatalf("got %v", err)
	}
	if b, err := os.ReadFile(file); err == nil {
		pid, _ := strconv.Atoi(string(b))
		gone(t, pid)
	}
}

func TestClientKillsProgramWhenCancelled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	c := newHost(t).open(t, "hang", fakeSettings{File: file}, `, "timeout": "5m"`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.Unwrap(ctx, names, []byte("x"))
		done <- err
	}()
	pid := pidIn(t, file)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	gone(t, pid)
}

func TestClientKillsChildrenOfProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	c := newHost(t).open(t, "child", fakeSettings{File: file}, "")
	if _, err := c.Unwrap(t.Context(), names, []byte("fake-wrapped:s")); err != nil {
		t.Fatal(err)
	}
	gone(t, pidIn(t, file))
}

// A process that left the group may hold the pipes; the answer is there all the same.
func TestClientWaitsForNobodyElse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	c := newHost(t).open(t, "escaped", fakeSettings{File: file}, "")
	secret, err := c.Unwrap(t.Context(), names, []byte("fake-wrapped:s"))
	syscall.Kill(pidIn(t, file), syscall.SIGKILL)
	if err != nil || len(secret) != 1 {
		t.Errorf("got %q, %v", secret, err)
	}
}

func TestClientLogsWithoutSecrets(t *testing.T) {
	h := newHost(t)
	c := h.open(t, "talks", fakeSettings{Key: "key-7"}, "")
	if _, err := c.Unwrap(t.Context(), names, []byte("x")); err != nil {
		t.Fatal(err)
	}
	got := h.logged()
	if !strings.Contains(got, "provider cmk: plyfs-key-fake: using key key-7") || strings.Count(got, "a line that held a secret left out") != 2 {
		t.Errorf("log:\n%s", got)
	}
	if strings.Contains(got, "0707") || strings.Contains(got, "BwcH") || len(got) > 2000 {
		t.Errorf("log of %d bytes:\n%s", len(got), got)
	}
}

func TestClientIsSafeForConcurrentUse(t *testing.T) {
	c := newHost(t).open(t, "", fakeSettings{}, "")
	done := make(chan error)
	for i := range 8 {
		go func() {
			secret := bytes.Repeat([]byte{byte(i + 1)}, 32)
			wrapped, err := c.Wrap(t.Context(), names, secret)
			if err == nil {
				var got []byte
				if got, err = c.Unwrap(t.Context(), names, wrapped); err == nil && !bytes.Equal(got, secret) {
					err = errors.New("somebody else's secret")
				}
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestLimitsAgree(t *testing.T) {
	if protocol.MaxWrapped != keystore.MaxWrapped {
		t.Errorf("the protocol allows %d bytes, a slot %d", protocol.MaxWrapped, keystore.MaxWrapped)
	}
	var _ keystore.Providers = (*provider.Host)(nil)
}
