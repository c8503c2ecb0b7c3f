package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

func TestRequestRoundTrip(t *testing.T) {
	want := &request{Source: "/c\n", Target: "/m", Mount: mountRequest{Layers: 2}, Data: []byte("a\n\x00b"), Infra: []byte{},
		Keys: keyring{Stores: storeRefs{Data: storeRef{Layer: 1, Path: "/k/data.store", secret: []byte("not sent")}}}, Log: logChoice{File: "/l"}}
	want.Mount.Options.Cluster = "c1"
	var pipe bytes.Buffer
	if err := sendRequest(&pipe, want); err != nil {
		t.Fatal(err)
	}
	got, err := readRequest(newMessageReader(&pipe))
	if err != nil {
		t.Fatal(err)
	}
	want.Keys.Stores.Data.secret, want.Infra = nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	kept := got.Data
	got.wipe()
	if got.Data != nil || !bytes.Equal(kept, make([]byte, len(kept))) {
		t.Error("wipe left the passphrase")
	}
	for _, bad := range []string{"", "{", "{}", "{}\n", "[]\n\x00\x00\x00\x00\x00\x00\x00\x00", "{}\n\xff\x00\x00\x00", "{}\n\x00\x00\x00\x02a"} {
		if _, err := readRequest(newMessageReader(strings.NewReader(bad))); err == nil {
			t.Errorf("%q is taken for a request", bad)
		}
	}
}

func TestFollowReports(t *testing.T) {
	tests := []struct {
		name    string
		reports []report
		rest    string
		want    error
		talk    string
	}{
		{"ready", []report{{Ready: true}}, "", nil, ""},
		{"notes, then ready", []report{{Note: "wait"}, {Note: "more"}, {Ready: true}}, "", nil, "plyfs: wait\nplyfs: more\n"},
		{"an error", []report{{Note: "wait"}, {Error: "no", Hint: "do", Code: exitBusy}}, "", &problem{err: errors.New("no"), hint: "do", code: exitBusy}, "plyfs: wait\n"},
		{"silence", nil, "", errSilent, ""},
		{"notes, then silence", []report{{Note: "wait"}}, "", errSilent, "plyfs: wait\n"},
		{"nonsense", nil, "panic: oh no\n", errSilent, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var pipe, talk bytes.Buffer
			for _, r := range tt.reports {
				if err := json.NewEncoder(&pipe).Encode(r); err != nil {
					t.Fatal(err)
				}
			}
			pipe.WriteString(tt.rest)
			got := followReports(&console{stderr: &talk}, &pipe)
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %#v, want %#v", got, tt.want)
			}
			if talk.String() != tt.talk {
				t.Errorf("said %q, want %q", &talk, tt.talk)
			}
		})
	}
}

// The other side for real: a daemon that cannot serve says why, and ends.
func TestDaemonReportsItsError(t *testing.T) {
	toDaemon, requests, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	reports, fromDaemon, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reports.Close()
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe", daemonName)
	cmd.Env = []string{asPlyfs + "=1"}
	cmd.ExtraFiles = []*os.File{toDaemon, fromDaemon}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	toDaemon.Close()
	fromDaemon.Close()
	if err := sendRequest(requests, &request{Source: dir, Target: dir, Keys: keyring{Config: dir + "/plyfs.json"}, Mount: mountRequest{Layers: 2}, Log: logChoice{File: dir + "/log"}}); err != nil {
		t.Fatal(err)
	}
	defer requests.Close()
	got := followReports(&console{stderr: os.Stderr}, reports)
	if codeOf(got) != exitNotVolume || !strings.Contains(got.Error(), "is not a plyfs volume") || hintOf(got) == "" {
		t.Errorf("reported %v, code %d, hint %q", got, codeOf(got), hintOf(got))
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != int(exitNotVolume) {
		t.Errorf("the daemon ended with %v, want %d", err, exitNotVolume)
	}
	log, _ := os.ReadFile(dir + "/log")
	wantText(t, "the log", string(log), "level=ERROR", "is not a plyfs volume")
}

// A parent that goes away before it sent a request leaves no daemon.
func TestDaemonWithoutParent(t *testing.T) {
	toDaemon, requests, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", daemonName)
	cmd.Env = []string{asPlyfs + "=1"}
	cmd.ExtraFiles = []*os.File{toDaemon, toDaemon}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	toDaemon.Close()
	requests.Close()
	if err := cmd.Wait(); err == nil {
		t.Error("it ended with 0")
	}
}

// A message that is cut off, or makes no sense, leaves no secret of it.
func TestMessageWithAnErrorHasNoSecrets(t *testing.T) {
	var whole bytes.Buffer
	if err := writeMessage(&whole, 1, [2][]byte{[]byte("first"), []byte("second")}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cut off": whole.String()[:whole.Len()-1], "no JSON": "x" + whole.String(),
	} {
		var n int
		secrets, err := newMessageReader(strings.NewReader(text)).read(&n)
		if err == nil || secrets[0] != nil || secrets[1] != nil {
			t.Errorf("%s: %v, and %q", name, err, secrets)
		}
	}
}
