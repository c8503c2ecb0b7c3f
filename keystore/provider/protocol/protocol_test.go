package protocol_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// service is a key service whose answers a test sets.
type service struct {
	wrapped, secret []byte
	err             error
	closed          bool
	deadline        bool
}

func (s *service) Describe() protocol.Description {
	return protocol.Description{Program: "p 1", Service: "s", Key: "k"}
}
func (s *service) Close() { s.closed = true }
func (s *service) Wrap(ctx context.Context, _ []byte) ([]byte, error) {
	_, s.deadline = ctx.Deadline()
	return s.wrapped, s.err
}
func (s *service) Unwrap(context.Context, []byte) ([]byte, error) { return s.secret, s.err }

// serve gives a request to a program with that service.
func serve(t *testing.T, s *service, request string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := protocol.Serve(t.Context(), strings.NewReader(request), &out, func(context.Context, json.RawMessage, protocol.Names) (protocol.Service, error) {
		return s, nil
	})
	return out.String(), err
}

const head = `{"plyfs_key":1,"op":`

func TestServeAnswers(t *testing.T) {
	const names = `,"id":"i","cluster":"east","group":"db","timeout_ms":1000,"settings":{}`
	for _, test := range []struct {
		name, request string
		service       service
		want          string
	}{
		{"describe", head + `"describe"` + names + `}`, service{}, `"description":{"program":"p 1","service":"s","key":"k"}`},
		{"wrap", head + `"wrap"` + names + `,"secret":"c2VjcmV0"}`, service{wrapped: []byte("w")}, `"wrapped":"dw=="`},
		{"unwrap", head + `"unwrap"` + names + `,"wrapped":"dw=="}`, service{secret: []byte("secret")}, `"secret":"c2VjcmV0"`},
		{"denied", head + `"unwrap"` + names + `,"wrapped":"dw=="}`, service{secret: []byte("secret"), err: protocol.Denied("no %d", 1)}, `"error":{"kind":"denied","message":"no 1"}`},
		{"failure", head + `"unwrap"` + names + `,"wrapped":"dw=="}`, service{err: errors.New("dial\ntcp")}, `"error":{"kind":"unavailable","message":"dial tcp"}`},
		{"empty result", head + `"unwrap"` + names + `,"wrapped":"dw=="}`, service{}, `"kind":"invalid"`},
		{"no result", head + `"wrap"` + names + `,"secret":"c2VjcmV0"}`, service{}, `"kind":"unavailable"`},
		{"long result", head + `"wrap"` + names + `,"secret":"c2VjcmV0"}`, service{wrapped: make([]byte, protocol.MaxWrapped+1)}, `"kind":"unavailable"`},
		{"operation", head + `"destroy"` + names + `}`, service{}, `"kind":"usage"`},
		{"wrap without secret", head + `"wrap"` + names + `}`, service{}, `"kind":"usage"`},
		{"wrap of both", head + `"wrap"` + names + `,"secret":"c2VjcmV0","wrapped":"dw=="}`, service{}, `"kind":"usage"`},
		{"describe of a secret", head + `"describe"` + names + `,"secret":"c2VjcmV0"}`, service{}, `"kind":"usage"`},
		{"unwrap of nothing", head + `"unwrap"` + names + `}`, service{}, `"kind":"usage"`},
		{"version", `{"plyfs_key":2,"op":"describe"` + names + `}`, service{}, `"kind":"usage"`},
		{"names", head + `"describe","id":"i","cluster":"a/b","group":"db","settings":{}}`, service{}, `"kind":"usage"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := serve(t, &test.service, test.request)
			if err != nil || !strings.HasPrefix(got, `{"plyfs_key":1,"id":"i",`) || !strings.Contains(got, test.want) || !strings.HasSuffix(got, "}\n") {
				t.Errorf("got %q, %v", got, err)
			}
			if strings.Contains(test.want, "error") && strings.Contains(got, "c2VjcmV0") {
				t.Errorf("an error with the secret: %q", got)
			}
		})
	}
}

func TestServeBoundsAndClosesTheService(t *testing.T) {
	s := &service{wrapped: []byte("w")}
	if _, err := serve(t, s, head+`"wrap","id":"i","cluster":"c","group":"g","timeout_ms":1000,"settings":{},"secret":"c2VjcmV0"}`); err != nil {
		t.Fatal(err)
	}
	if !s.closed || !s.deadline {
		t.Errorf("closed: %v, with a deadline: %v", s.closed, s.deadline)
	}
}

func TestServeRefusesWhatIsNoRequest(t *testing.T) {
	for _, text := range []string{"", "\n", "null", "[]", "{", "7", head, `{"plyfs_key":1} {}`, `{"plyfs_key":1,"SECRET":"x"}`, `{"plyfs_key":1,"op":7}`,
		`{"plyfs_key":1,"secret":"not base64"}`, `{"plyfs_key":1,"id":"` + strings.Repeat("x", protocol.MaxMessage) + `"}`} {
		if got, err := serve(t, &service{}, text); err == nil || got != "" {
			t.Errorf("%.40q: got %q", text, got)
		}
	}
}

// Errors of package json quote what they do not like.
func TestDecodeErrorsHoldNoSecret(t *testing.T) {
	for _, text := range []string{`{"plyfs_key":"hunter2"}`, `{"secret":"hunter2!"}`, `{"secret":{"hunter2":1}}`} {
		if _, err := protocol.DecodeRequest([]byte(text)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

func TestEncodeIsUndone(t *testing.T) {
	want := &protocol.Request{Version: 1, Op: "wrap", ID: "i", Cluster: "c", Group: "g", TimeoutMS: 5, Settings: json.RawMessage(`{"a":1}`), Secret: []byte("secret")}
	line, err := want.Encode()
	if err != nil || string(line) != `{"plyfs_key":1,"op":"wrap","id":"i","cluster":"c","group":"g","timeout_ms":5,"settings":{"a":1},"secret":"c2VjcmV0"}`+"\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	got, err := protocol.DecodeRequest(line)
	if err != nil || got.Op != want.Op || !bytes.Equal(got.Secret, want.Secret) || string(got.Settings) != string(want.Settings) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := (&protocol.Answer{Secret: make([]byte, protocol.MaxMessage)}).Encode(); err == nil {
		t.Error("a message of any length")
	}
}

func TestExpand(t *testing.T) {
	n := protocol.Names{Cluster: "east", Group: "db"}
	for _, test := range []struct{ template, want string }{
		{"alias/plyfs-{cluster}-{group}", "alias/plyfs-east-db"},
		{"one-for-all", "one-for-all"},
		{"{cluster}{cluster}", "easteast"},
		{"{volume}", ""},
		{"{Cluster}", ""},
		{"{", ""},
	} {
		got, err := protocol.Expand(test.template, n)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: got %q, %v", test.template, got, err)
		}
	}
}

func TestLineIsOnePrintableLine(t *testing.T) {
	for in, want := range map[string]string{"a\nb": "a b", "\x1b[2Jx\x00": "[2Jx", " é ": "é", "a\u0085b": "a b", "bad\xffutf8": "bad utf8", strings.Repeat("é", 10): "ééé..."} {
		if got := protocol.Line(in, 10); got != want {
			t.Errorf("%q: got %q", in, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(head + `"wrap","id":"i","cluster":"c","group":"g","settings":{},"secret":"c2VjcmV0"}`))
	f.Add([]byte(`{"plyfs_key":1,"id":"i","error":{"kind":"denied","message":"no"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if r, err := protocol.DecodeRequest(raw); err == nil {
			if line, err := r.Encode(); err == nil {
				if _, err := protocol.DecodeRequest(line); err != nil {
					t.Errorf("%q: %v", line, err)
				}
			}
		}
		if a, err := protocol.DecodeAnswer(raw); err == nil {
			if line, err := a.Encode(); err == nil {
				if _, err := protocol.DecodeAnswer(line); err != nil {
					t.Errorf("%q: %v", line, err)
				}
			}
		}
	})
}

// The frame answers people with version and help, and refuses what it has no request for.
func TestProgramRun(t *testing.T) {
	p := protocol.Program{Name: "plyfs-key-x", Version: "1.2", Usage: "how to use it\n"}
	for _, c := range []struct {
		args      []string
		in        string
		code      int
		out, errs string
	}{
		{[]string{"version"}, "", 0, "plyfs-key-x 1.2\n", ""},
		{[]string{"--help"}, "", 0, "how to use it\n", ""},
		{[]string{"other"}, "", 2, "", "how to use it\n"},
		{nil, "no request", 1, "", "plyfs-key-x: error: request is not one of this protocol"},
	} {
		var out, errs strings.Builder
		code := p.Run(c.args, strings.NewReader(c.in), &out, &errs, nil)
		if code != c.code || out.String() != c.out || !strings.HasPrefix(errs.String(), c.errs) || c.errs == "" && errs.Len() > 0 {
			t.Errorf("%q: %d, %q, %q", c.args, code, out.String(), errs.String())
		}
	}
}
