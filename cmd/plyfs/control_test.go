package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
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
		"long":        {strings.Repeat("x", maxQuestion+2) + "\n", ""},
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
