package provider_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/plyfs/plyfs/keystore"
	"github.com/plyfs/plyfs/keystore/provider"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// The test binary is also the program that tests run, under the name plyfs-key-fake.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "plyfs-key-fake" {
		os.Exit(fake(os.Getenv("FAKE")))
	}
	os.Exit(m.Run())
}

// fakeSettings are those of the fake program.
type fakeSettings struct {
	Key  string `json:"key"`
	File string `json:"file,omitempty"` // for modes that leave something behind
}

// fakeService keeps a secret by an XOR with its key: a stand-in for a key service.
type fakeService struct {
	fakeSettings
	n    protocol.Names
	mode string
}

func openFake(mode string) protocol.Open {
	return func(_ context.Context, raw json.RawMessage, n protocol.Names) (protocol.Service, error) {
		s := &fakeService{n: n, mode: mode}
		if err := protocol.Settings(raw, &s.fakeSettings); err != nil {
			return nil, err
		}
		if s.Key == "" {
			return nil, protocol.Usage("settings: no key")
		}
		return s, nil
	}
}

func (s *fakeService) Close() {}

func (s *fakeService) Describe() protocol.Description {
	d := protocol.Description{Program: "fake 1", Service: "none", Key: s.Key + "/" + s.n.Cluster + "/" + s.n.Group}
	if s.mode == "environ" {
		d.Key = strings.Join(os.Environ(), " ")
	}
	return d
}

func (s *fakeService) xor(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = b[i] ^ s.Key[i%len(s.Key)]
	}
	return out
}

const fakeMark = "fake-wrapped:"

func (s *fakeService) Wrap(_ context.Context, secret []byte) ([]byte, error) {
	return append([]byte(fakeMark), s.xor(secret)...), nil
}

func (s *fakeService) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	switch s.mode {
	case "denied":
		return nil, protocol.Denied("key is disabled\x1b[2J\nby %s", s.n.Cluster)
	case "unavailable":
		s.count()
		return nil, errors.New("connection refused")
	case "flaky":
		if s.count() < 3 {
			return nil, errors.New("connection refused")
		}
	case "panic":
		panic("the secret would be here")
	}
	rest, ok := bytes.CutPrefix(wrapped, []byte(fakeMark))
	if !ok {
		return nil, protocol.Invalid("these are not my bytes")
	}
	return s.xor(rest), nil
}

// count notes one more run, and returns how many there were.
func (s *fakeService) count() int {
	f, err := os.OpenFile(s.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	f.WriteString("x")
	st, _ := f.Stat()
	return int(st.Size())
}

// fake is the main function of the program.
func fake(mode string) int {
	raw, err := io.ReadAll(os.Stdin)
	if err != nil {
		return 1
	}
	var req protocol.Request
	json.Unmarshal(raw, &req)
	var s fakeSettings
	json.Unmarshal(req.Settings, &s)
	say := func(a protocol.Answer) int {
		line, err := a.Encode()
		if err != nil {
			return 1
		}
		os.Stdout.Write(line)
		return 0
	}
	secret := bytes.Repeat([]byte{7}, 32)
	switch mode {
	case "hang":
		os.WriteFile(s.File, fmt.Appendf(nil, "%d", os.Getpid()), 0o600)
		time.Sleep(time.Hour)
	case "child", "escaped": // a process of its own that holds the pipes and outlives it
		cmd := exec.Command("sleep", "3600")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: mode == "escaped"}
		if cmd.Start() != nil {
			return 1
		}
		os.WriteFile(s.File, fmt.Appendf(nil, "%d", cmd.Process.Pid), 0o600)
	case "silent":
		return 0
	case "nonsense":
		fmt.Println("Hello, I am not a key provider.")
		return 0
	case "html":
		fmt.Println("<html>" + strings.Repeat("x", 10<<10))
		return 0
	case "endless":
		for {
			if _, err := os.Stdout.Write(make([]byte, 32<<10)); err != nil {
				return 1
			}
		}
	case "other-request":
		return say(protocol.Answer{Version: 1, ID: "0123456789abcdef0123456789abcdef", Secret: secret})
	case "other-version":
		return say(protocol.Answer{Version: 2, ID: req.ID, Secret: secret})
	case "two-results":
		return say(protocol.Answer{Version: 1, ID: req.ID, Secret: secret, Error: &protocol.Failure{Kind: "denied"}})
	case "no-result":
		return say(protocol.Answer{Version: 1, ID: req.ID})
	case "wrong-result":
		return say(protocol.Answer{Version: 1, ID: req.ID, Wrapped: secret})
	case "unknown-member":
		fmt.Printf("{\"plyfs_key\":1,\"id\":%q,\"secret\":%q,\"more\":1}\n", req.ID, base64.StdEncoding.EncodeToString(secret))
		return 0
	case "unknown-kind":
		return say(protocol.Answer{Version: 1, ID: req.ID, Error: &protocol.Failure{Kind: "maybe", Message: "who knows"}})
	case "exit-status":
		say(protocol.Answer{Version: 1, ID: req.ID, Error: &protocol.Failure{Kind: "denied", Message: "not heard"}})
		return 3
	case "killed":
		fmt.Printf("{\"plyfs_key\":1,\"id\":%q,\"sec", req.ID)
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "talks":
		fmt.Fprintf(os.Stderr, "using key %s\nsecret is %x\nsecret is %s\n%s\n", s.Key, secret,
			base64.StdEncoding.EncodeToString(secret), strings.Repeat("long ", 2000))
		return say(protocol.Answer{Version: 1, ID: req.ID, Secret: secret})
	}
	if err := protocol.Serve(context.Background(), bytes.NewReader(raw), os.Stdout, openFake(mode)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// testHost is a host with the fake program on its path.
type testHost struct {
	*provider.Host
	dir string // of programs
	mu  sync.Mutex
	log []string
}

var names = keystore.Names{Cluster: "east", Group: "db"}

func newHost(t *testing.T) *testHost {
	t.Helper()
	h := &testHost{dir: t.TempDir()}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(h.dir, "plyfs-key-fake")); err != nil {
		t.Fatal(err)
	}
	// What a strange umask or the build left writable is not the matter here.
	for path, mode := range map[string]os.FileMode{h.dir: 0o755, self: 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	h.Host = &provider.Host{Dir: t.TempDir(), Path: h.dir + ":/usr/bin:/bin", Log: func(line string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.log = append(h.log, line)
	}}
	provider.SetBackoff(h.Host, time.Millisecond)
	os.Chmod(h.Dir, 0o755)
	return h
}

func (h *testHost) logged() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.log, "\n")
}

// write writes a provider's file as text.
func (h *testHost) write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(h.Dir, name+".json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// open returns the fake provider in a mode, with the patience that a loaded machine needs. more are members of its file,
// which count for more than those before.
func (h *testHost) open(t *testing.T, mode string, s fakeSettings, more string) *provider.Client {
	t.Helper()
	if s.Key == "" {
		s.Key = "k"
	}
	settings, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	h.write(t, "cmk", fmt.Sprintf(`{"program": "fake", "settings": %s, "env": ["FAKE=%s"], "timeout": "3m"%s}`, settings, mode, more))
	c, err := h.Open("cmk")
	if err != nil {
		t.Fatal(err)
	}
	return c
}
