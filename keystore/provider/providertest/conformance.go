package providertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// Program is a provider program with settings under which it works.
type Program struct {
	Path     string   // absolute
	Settings string   // a JSON object
	Env      []string // all of its environment
	// BindsNames: what was wrapped for one cluster and group is refused for another.
	BindsNames bool
	// Foreign is something that another key wrapped, for a program that cannot tell by itself what is not its own;
	// nil: changed bytes are tried.
	Foreign []byte
}

// patience is how long a program may take for one answer here.
const patience = 2 * time.Minute

// Conformance runs a program through all that the protocol asks of it.
func Conformance(t *testing.T, p Program) {
	names := protocol.Names{Cluster: "conformance", Group: "group-1"}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		t.Fatal(err)
	}
	t.Run("describes itself", func(t *testing.T) {
		a := p.must(t, &protocol.Request{Op: protocol.OpDescribe}, names)
		if a.Description == nil || a.Wrapped != nil || a.Secret != nil {
			t.Fatalf("answer %+v", a)
		}
		for what, text := range map[string]string{"program": a.Description.Program, "service": a.Description.Service, "key": a.Description.Key} {
			if text == "" || text != protocol.Line(text, protocol.MaxText) {
				t.Errorf("%s: %q", what, text)
			}
		}
	})
	t.Run("wraps and unwraps", func(t *testing.T) {
		wrapped := p.wrap(t, names, secret)
		a := p.must(t, &protocol.Request{Op: protocol.OpUnwrap, Wrapped: wrapped}, names)
		if !bytes.Equal(a.Secret, secret) || a.Wrapped != nil || a.Description != nil {
			t.Error("unwrap did not give back what was wrapped, alone")
		}
		if again := p.must(t, &protocol.Request{Op: protocol.OpUnwrap, Wrapped: wrapped}, names); !bytes.Equal(again.Secret, secret) {
			t.Error("a second unwrap gave something else")
		}
	})
	t.Run("refuses what it did not wrap", func(t *testing.T) {
		foreign := p.Foreign
		if foreign == nil {
			foreign = p.wrap(t, names, secret)
			foreign[len(foreign)-1] ^= 1
		}
		p.mustFail(t, &protocol.Request{Op: protocol.OpUnwrap, Wrapped: foreign}, names, protocol.KindInvalid, protocol.KindDenied)
		p.mustFail(t, &protocol.Request{Op: protocol.OpUnwrap, Wrapped: []byte("x")}, names, protocol.KindInvalid, protocol.KindDenied)
	})
	if p.BindsNames {
		t.Run("keeps groups apart", func(t *testing.T) {
			wrapped := p.wrap(t, names, secret)
			other := protocol.Names{Cluster: "conformance", Group: "group-2"}
			p.mustFail(t, &protocol.Request{Op: protocol.OpUnwrap, Wrapped: wrapped}, other, protocol.KindInvalid, protocol.KindDenied)
		})
	}
	t.Run("refuses requests", func(t *testing.T) {
		usage := protocol.KindUsage
		p.mustFail(t, &protocol.Request{Op: "destroy"}, names, usage)
		p.mustFail(t, &protocol.Request{Op: protocol.OpDescribe, Version: protocol.Version + 1}, names, usage)
		p.mustFail(t, &protocol.Request{Op: protocol.OpDescribe}, protocol.Names{Cluster: "../x", Group: "g"}, usage)
		strict := p
		strict.Settings = strings.Replace(p.Settings, "{", `{"no_such_setting": 1, `, 1)
		strict.mustFail(t, &protocol.Request{Op: protocol.OpDescribe}, names, usage)
	})
	t.Run("does not answer nonsense", func(t *testing.T) {
		for _, text := range []string{"", "\n", "GET / HTTP/1.1\r\n\r\n", "{", "[]", "null"} {
			out, err := p.run(t, []byte(text))
			if err == nil && len(bytes.TrimSpace(out)) > 0 {
				t.Errorf("%q: it answered %q", text, out)
			}
		}
	})
}

func (p Program) wrap(t *testing.T, n protocol.Names, secret []byte) []byte {
	t.Helper()
	a := p.must(t, &protocol.Request{Op: protocol.OpWrap, Secret: secret}, n)
	if len(a.Wrapped) == 0 || len(a.Wrapped) > protocol.MaxWrapped || a.Secret != nil || a.Description != nil {
		t.Fatalf("wrap gave %d wrapped and %d secret bytes", len(a.Wrapped), len(a.Secret))
	}
	if bytes.Contains(a.Wrapped, secret) {
		t.Fatal("the wrapped secret contains the secret")
	}
	return a.Wrapped
}

// must returns the answer, which is no error.
func (p Program) must(t *testing.T, req *protocol.Request, n protocol.Names) *protocol.Answer {
	t.Helper()
	a := p.ask(t, req, n)
	if a.Error != nil {
		t.Fatalf("%s: %s: %s", req.Op, a.Error.Kind, a.Error.Message)
	}
	return a
}

// mustFail checks that the answer is an error of one of the kinds.
func (p Program) mustFail(t *testing.T, req *protocol.Request, n protocol.Names, kinds ...string) {
	t.Helper()
	a := p.ask(t, req, n)
	if a.Error == nil {
		t.Errorf("%s: answered, wanted an error %q", req.Op, kinds)
		return
	}
	for _, k := range kinds {
		if a.Error.Kind == k {
			return
		}
	}
	t.Errorf("%s: %s: %s; wanted %q", req.Op, a.Error.Kind, a.Error.Message, kinds)
}

// ask runs the program with a request and decodes its answer.
func (p Program) ask(t *testing.T, req *protocol.Request, n protocol.Names) *protocol.Answer {
	t.Helper()
	if req.Version == 0 {
		req.Version = protocol.Version
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		t.Fatal(err)
	}
	req.ID, req.Cluster, req.Group = hex.EncodeToString(id), n.Cluster, n.Group
	req.TimeoutMS, req.Settings = patience.Milliseconds(), json.RawMessage(p.Settings)
	line, err := req.Encode()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.run(t, line)
	if err != nil {
		t.Fatalf("%s: %v", req.Op, err)
	}
	a, err := protocol.DecodeAnswer(out)
	if err != nil {
		t.Fatalf("%s: answer %q: %v", req.Op, out, err)
	}
	if a.Version != protocol.Version || a.ID != req.ID {
		t.Fatalf("%s: answer of version %d to request %q", req.Op, a.Version, a.ID)
	}
	return a
}

// run runs the program, and checks that no secret is in what it says besides.
func (p Program) run(t *testing.T, request []byte) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Path)
	cmd.Env, cmd.Dir, cmd.WaitDelay = p.Env, "/", 10*time.Second
	cmd.Stdin = bytes.NewReader(request)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("no answer within %s", patience)
	}
	for _, answer := range [][]byte{request, out.Bytes()} {
		var m struct{ Secret []byte }
		if json.Unmarshal(answer, &m) == nil && len(m.Secret) > 0 {
			for _, form := range []string{string(m.Secret), hex.EncodeToString(m.Secret), base64.RawStdEncoding.EncodeToString(m.Secret)} {
				if strings.Contains(errOut.String(), form) {
					t.Error("the secret is in what the program says on its standard error")
				}
			}
		}
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, protocol.Line(errOut.String(), protocol.MaxText))
	}
	return out.Bytes(), err
}
