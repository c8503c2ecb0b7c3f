package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestConverse is one question and one answer on a connection, also of those
// who ask nonsense.
func TestConverse(t *testing.T) {
	table := map[string]control{
		"echo": func(_ context.Context, args json.RawMessage) (any, error) { return args, nil },
		"fail": func(context.Context, json.RawMessage) (any, error) {
			return nil, &problem{err: errors.New("it failed"), code: exitBusy, hint: "wait"}
		},
	}
	for name, c := range map[string]struct{ in, out string }{
		"result":      {`{"op":"echo","args":{"a":1}}` + "\n", `{"result":{"a":1}}`},
		"this device": {`{"op":"echo","args":1,"device":"0:42"}` + "\n", `{"result":1}`},
		"another":     {`{"op":"echo","args":1,"device":"0:43"}` + "\n", `{"error":"the daemon that answers has another mount of that path, in another mount namespace","hint":"mount one of the two at a path of its own","code":1}`},
		"error":       {`{"op":"fail"}` + "\n", `{"error":"it failed","hint":"wait","code":5}`},
		"unknown":     {`{"op":"dance"}` + "\n", `{"error":"the daemon does not know the request \"dance\"","hint":"it is of another version of plyfs: mount the volume again","code":7}`},
		"not JSON":    {"hello\n", `{"error":"invalid character 'h' looking for beginning of value","code":1}`},
		"long":        {strings.Repeat("x", maxMessage+2) + "\n", ""},
		"end of file": {`{"op":`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := net.Pipe()
			go converse(there, "0:42", table)
			go func() {
				here.Write([]byte(c.in))
				if !strings.HasSuffix(c.in, "\n") {
					here.Close()
				}
			}()
			here.SetReadDeadline(time.Now().Add(10 * time.Second))
			got, _ := bufio.NewReader(here).ReadString('\n')
			if got = strings.TrimSpace(got); got != c.out {
				t.Errorf("answer %s, want %s", got, c.out)
			}
		})
	}
}

// TestAskerGone tells a control that nobody waits any more.
func TestAskerGone(t *testing.T) {
	ended := make(chan struct{})
	here, there := net.Pipe()
	go converse(there, "", map[string]control{"wait": func(ctx context.Context, _ json.RawMessage) (any, error) {
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}})
	here.Write([]byte(`{"op":"wait"}` + "\n"))
	here.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it goes on waiting")
	}
}

// flaky is a listener that fails once before each connection.
type flaky struct {
	net.Listener
	failed bool
}

func (l *flaky) Accept() (net.Conn, error) {
	if l.failed = !l.failed; l.failed {
		return nil, unix.EMFILE
	}
	return l.Listener.Accept()
}

// TestAcceptGoesOn when descriptors ran out, and ends with the listener.
func TestAcceptGoesOn(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		accept(&flaky{Listener: l}, func(c net.Conn) { c.Close() })
		close(ended)
	}()
	for range 2 {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		c.Close()
	}
	l.Close()
	<-ended
}
