package dockervolume

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// wire serves the rig's plugin on a socket and returns a client, and what ends
// the server.
func wire(r *rig) (c *http.Client, path string, end func() error) {
	r.t.Helper()
	path = filepath.Join(r.dir, "run", "plyfs.sock")
	l, err := Listen(path)
	r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, l) }()
	end = func() error { cancel(); return <-done }
	return &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", path)
	}}}, path, end
}

func post(t *testing.T, c *http.Client, path, body string) (int, string) {
	t.Helper()
	resp, err := c.Post("http://plugin"+path, contentType, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b))
}

func TestProtocol(t *testing.T) {
	r := newRig(t)
	c, path, end := wire(r)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", st.Mode(), err)
	}
	at := r.path("mnt", "db")
	for _, step := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/Plugin.Activate", "", 200, `{"Implements":["VolumeDriver"]}`},
		{"/VolumeDriver.Capabilities", "{}", 200, `{"Capabilities":{"Scope":"local"}}`},
		{"/VolumeDriver.List", "{}", 200, `{"Volumes":[]}`},
		{"/VolumeDriver.Create", `{"Name":"db","Opts":{"group":"web"}}`, 200, `{}`},
		{"/VolumeDriver.Create", `{"Name":"db","Opts":{"grop":"web"}}`, 500, `{"Err":"unknown option \"grop\": did you mean group?"}`},
		{"/VolumeDriver.Path", `{"Name":"db"}`, 200, `{"Mountpoint":""}`},
		{"/VolumeDriver.Mount", `{"Name":"db","ID":"1","New":"field"}`, 200, `{"Mountpoint":"` + at + `"}`},
		{"/VolumeDriver.Path", `{"Name":"db"}`, 200, `{"Mountpoint":"` + at + `"}`},
		{"/VolumeDriver.Remove", `{"Name":"db"}`, 500, `{"Err":"db: the volume is in use: it is mounted for 1 container(s)"}`},
		{"/VolumeDriver.Unmount", `{"Name":"db","ID":"1"}`, 200, `{}`},
		{"/VolumeDriver.Remove", `{"Name":"db"}`, 200, `{}`},
		{"/VolumeDriver.Get", `{"Name":"db"}`, 500, `{"Err":"db: no such volume"}`},
		{"/VolumeDriver.Get", `{"Name":`, 400, `{"Err":"malformed request: unexpected end of JSON input"}`},
		{"/VolumeDriver.Get", strings.Repeat(" ", maxBody+1), 400, `{"Err":"a request of more than 65536 bytes"}`},
		{"/VolumeDriver.Nothing", `{}`, 404, `404 page not found`},
	} {
		status, got := post(t, c, step.path, step.body)
		if status != step.status || got != step.want {
			t.Errorf("%s %.60s: %d %s, want %d %s", step.path, step.body, status, got, step.status, step.want)
		}
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestGetAndListSayTheSame(t *testing.T) {
	r := newRig(t)
	c, _, end := wire(r)
	defer end()
	r.mustCreate("db", "block-size=8192")
	_, got := post(t, c, "/VolumeDriver.Get", `{"Name":"db"}`)
	_, list := post(t, c, "/VolumeDriver.List", `{}`)
	var one struct{ Volume json.RawMessage }
	var all struct{ Volumes []json.RawMessage }
	r.must(json.Unmarshal([]byte(got), &one))
	r.must(json.Unmarshal([]byte(list), &all))
	if len(all.Volumes) != 1 || string(all.Volumes[0]) != string(one.Volume) {
		t.Errorf("get says %s, list %s", got, list)
	}
	for _, part := range []string{`"Name":"db"`, `"CreatedAt":"20`, `"block-size":8192`, `"cluster":"default"`, `"layers":2`} {
		if !strings.Contains(got, part) {
			t.Errorf("%s lacks %s", got, part)
		}
	}
}

// A socket file that a killed plugin left is replaced, a live one is not, and
// a file of another kind is left alone.
func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); !errors.Is(err, ErrServed) {
		t.Errorf("a second listener: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = Listen(path); err != nil {
		t.Fatalf("after a kill: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("a file was replaced")
	}
}

// Docker gives up waiting for a mount: the volume is not in use then.
func TestHangUpEndsAMount(t *testing.T) {
	r := newRig(t)
	_, path, end := wire(r)
	defer end()
	r.mustCreate("db")
	started := make(chan struct{})
	r.host.mountGate = func(ctx context.Context, _ string) {
		close(started)
		<-ctx.Done()
	}
	conn, err := net.Dial("unix", path)
	r.must(err)
	const body = `{"Name":"db","ID":"1"}`
	fmt.Fprintf(conn, "POST /VolumeDriver.Mount HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	<-started
	conn.Close()
	e := r.entries["db"]
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := e.seize(ctx); err != nil {
		t.Fatal("the mount goes on")
	}
	e.release()
	r.wantNames("db:0")
}

// A server that is told to end answers what is under way first.
func TestEndWaitsForRequests(t *testing.T) {
	r := newRig(t)
	_, path, end := wire(r)
	r.mustCreate("db")
	started, proceed := make(chan struct{}), make(chan struct{})
	r.host.mountGate = func(context.Context, string) {
		close(started)
		<-proceed
	}
	conn, err := net.Dial("unix", path)
	r.must(err)
	defer conn.Close()
	const body = `{"Name":"db","ID":"1"}`
	fmt.Fprintf(conn, "POST /VolumeDriver.Mount HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	<-started
	ended := make(chan error, 1)
	go func() { ended <- end() }()
	close(proceed)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("answer: %v, %v", resp, err)
	}
	r.must(<-ended)
	r.wantNames("db:1")
}
