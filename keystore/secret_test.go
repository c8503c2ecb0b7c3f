package keystore

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plyfs/plyfs/cipher"
)

// TestNothingPrintsKeys prints everything that holds a key, in every way.
func TestNothingPrintsKeys(t *testing.T) {
	data, infra := newStores(t, testNames)
	b, _ := newConfig(t, 2, data, infra)
	g, err := data.GroupKey(testNames)
	if err != nil {
		t.Fatal(err)
	}
	config := mustParse(t, b)
	if _, _, _, err := unlockWith(config, data, infra); err != nil {
		t.Fatal(err)
	}
	keys := []*secret{g.key, data.key, data.content.roots[0].key}
	for _, v := range []any{data, g, *g, config, keys[0], *keys[0], data.content, *data.content, data.content.roots} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%t"} {
			noKey(t, fmt.Sprintf("%T with %s", v, verb), fmt.Sprintf(verb, v), keys)
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
		noKey(t, fmt.Sprintf("%T logged", v), log.String(), keys)
		if j, err := json.Marshal(v); err == nil {
			noKey(t, fmt.Sprintf("%T in JSON", v), string(j), keys)
		}
	}
	if got := g.String() + data.String(); !strings.Contains(got, "prod/db-1") || !strings.Contains(got, "data") {
		t.Errorf("names: got %q", got)
	}
}

// noKey reports a key in s: in hexadecimal, decimal, octal, binary, base64 or as it is.
func noKey(t *testing.T, what, s string, keys []*secret) {
	t.Helper()
	for _, k := range keys {
		part := k.b[3:9]
		forms := []string{string(part), base64.StdEncoding.EncodeToString(k.b[:])[4:16]}
		for _, verb := range []string{"%x", "%X", "%d", "%o", "%b", "%#v", "% x"} {
			forms = append(forms, strings.Trim(strings.TrimPrefix(fmt.Sprintf(verb, part), "[]byte"), "[]{}"))
		}
		for _, f := range forms {
			if strings.Contains(s, f) {
				t.Errorf("%s shows a key: %s", what, s)
			}
		}
	}
}

// TestErrorsTellNoSecrets spoils a key file in ways that could make an error quote it.
func TestErrorsTellNoSecrets(t *testing.T) {
	s := newStore(t, t.TempDir(), cipher.LayerData, testNames)
	path := DefaultKeyFile(s.Path())
	good := readFile(t, path)
	for i := range good {
		for _, c := range []byte{'g', ' ', 0, '\n'} {
			b := bytes.Clone(good)
			b[i] = c
			writeFile(t, path, b)
			if _, err := OpenStore(s.Path(), cipher.LayerData, Opener{}); err != nil {
				noKey(t, "error", err.Error()+Hint(err), []*secret{s.key})
				if strings.Contains(err.Error(), string(good[20:30])) || strings.Contains(err.Error(), string(good[40:50])) {
					t.Errorf("error quotes the key file: %v", err)
				}
			}
		}
	}
}

func TestWipe(t *testing.T) {
	data, infra := newStores(t, testNames)
	b, _ := newConfig(t, 2, data, infra)
	key, root := data.key, data.content.roots[0].key
	data.Wipe()
	data.Wipe()
	if key.b != [32]byte{} || root.b != [32]byte{} {
		t.Error("a wiped store still has a key")
	}
	if err := unlockBytes(b, data, infra); !errors.Is(err, cipher.ErrWiped) {
		t.Errorf("unlock with a wiped store: got error %v", err)
	}
	given := bytes.Repeat([]byte{7}, keySize)
	if s := newSecret(given); !allZero(given) || s.b[31] != 7 {
		t.Error("newSecret left its argument")
	}
}

func TestHints(t *testing.T) {
	if got := Hint(nil); got != "" {
		t.Errorf("no error: got hint %q", got)
	}
	if got := Hint(errors.New("x")); got != "" {
		t.Errorf("foreign error: got hint %q", got)
	}
	for _, h := range hints {
		if got := Hint(fmt.Errorf("a: %w", h.err)); got != h.hint {
			t.Errorf("%v: got hint %q", h.err, got)
		}
	}
	if got := Hint(&fs.PathError{Op: "open", Path: "x", Err: os.ErrPermission}); !strings.Contains(got, "root") {
		t.Errorf("permission: got hint %q", got)
	}
	err := fmt.Errorf("a: %w", &fault{what: "b", kind: ErrMissing, cause: fs.ErrNotExist, hint: "c"})
	if Hint(err) != "c" || !errors.Is(err, ErrMissing) || !errors.Is(err, fs.ErrNotExist) || err.Error() != "a: b: missing: file does not exist" {
		t.Errorf("got %q with hint %q", err, Hint(err))
	}
}

func TestDefaultKeyFile(t *testing.T) {
	for path, want := range map[string]string{"/a/data.store": "/a/data.key", "/a/x": "/a/x.key"} {
		if got := DefaultKeyFile(path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
	dir := t.TempDir()
	path, keyFile := filepath.Join(dir, "infra.store"), filepath.Join(t.TempDir(), "elsewhere")
	open := Opener{KeyFile: keyFile}
	if err := CreateStore(path, cipher.LayerInfra, open, testNames); err != nil {
		t.Fatal(err)
	}
	onlyFiles(t, dir, "infra.store")
	if _, err := OpenStore(path, cipher.LayerInfra, open); err != nil {
		t.Error(err)
	}
	_, err := OpenStore(path, cipher.LayerInfra, Opener{})
	check(t, "key file not named", err, ErrMissing)
}
