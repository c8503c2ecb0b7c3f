package dockervolume

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHostileNames(t *testing.T) {
	r := newRig(t)
	outside := filepath.Join(r.dir, "outside")
	r.must(os.Mkdir(outside, 0o755))
	ctx := context.Background()
	for _, name := range []string{
		"", ".", "..", "/", "../outside", "../../outside", "a/b", "/etc", "a/../../x", ".hidden", "-x", "_x",
		"a\x00b", "a\nb", "a b", "ä", "a\\b", "a:b", "%2e%2e", strings.Repeat("x", maxName+1),
	} {
		for what, err := range map[string]error{
			"Create":  r.create(name),
			"Remove":  r.Remove(ctx, name),
			"Mount":   errOf(r.Mount(ctx, name, "id")),
			"Unmount": r.Unmount(ctx, name, "id"),
			"Path":    errOf(r.Path(ctx, name)),
			"Get":     func() error { _, err := r.Get(ctx, name); return err }(),
		} {
			if err == nil {
				t.Errorf("%s(%q) is done", what, name)
			}
		}
	}
	r.mustCreate("A-b_c.9..")
	r.mustCreate("db")
	for _, id := range []string{"", "a\x00", "a\n", strings.Repeat("i", maxID+1)} {
		if _, err := r.Mount(ctx, "db", id); err == nil {
			t.Errorf("mounted by %q", id)
		}
	}
	r.wantCalls("make, make")
	left, err := os.ReadDir(r.dir)
	r.must(err)
	if len(left) != 2 { // state, outside
		t.Errorf("left %v", left)
	}
}

func TestHostileOptions(t *testing.T) {
	r := newRig(t)
	for option, text := range map[string]string{
		"blocksize=4096":            "did you mean block-size",
		"cipher-dir=/x":             "did you mean cipherdir",
		"keystore=/root/k":          "unknown option",
		"journal=/x":                "unknown option",
		"o=suid":                    "unknown option",
		"suid=":                     "unknown option",
		"block-size=4097":           "power of two",
		"block-size=2048":           "power of two",
		"block-size=131072":         "power of two",
		"block-size=+4096":          "power of two",
		"block-size=04096":          "power of two",
		"block-size=":               "power of two",
		"block-size=-4096":          "power of two",
		"layers=0":                  "1 or 2",
		"layers=3":                  "1 or 2",
		"cluster=":                  "1 to 63",
		"cluster=A":                 "1 to 63",
		"group=a,keystore=/x":       "1 to 63",
		"journal-size=1":            "16M to 64G",
		"journal-size=64M,suid":     "K, M or G",
		"journal-size=64M\nsuid":    "K, M or G",
		"journal-size=\"64M\",suid": "K, M or G",
		"cipherdir=":                "absolute",
		"cipherdir=x":               "absolute",
		"cipherdir=/":               "absolute",
		"cipherdir=/a/../b":         "absolute",
		"cipherdir=/a/./b":          "absolute",
		"cipherdir=//a":             "absolute",
		"cipherdir=/a/":             "absolute",
		"cipherdir=/a\x00b":         "control",
		"cipherdir=/etc":            "not below",
	} {
		r.wantErr(r.create("db", option), text)
	}
	r.wantErr(r.create("db", "cipherdir=/a/b", "block-size=4096"), "has its own")
	r.wantCalls("")
	r.wantNames("")
}

// A volume from elsewhere is below an allowed root, whatever the path looks
// like and whoever changes it.
func TestAdoptedStaysBelowItsRoot(t *testing.T) {
	r := newRig(t)
	allow, outside := filepath.Join(r.dir, "allow"), filepath.Join(r.dir, "allow-not")
	inside := filepath.Join(allow, "a", "vol")
	for _, dir := range []string{inside, filepath.Join(outside, "vol")} {
		r.must(os.MkdirAll(dir, 0o755))
	}
	for _, dir := range []string{inside, filepath.Join(outside, "vol"), allow} {
		r.must(writeVolume(dir, Description{"default", "default", 4096, 2}))
	}
	r.must(os.Symlink(outside, filepath.Join(allow, "link")))
	r.must(os.Symlink("../allow-not/vol", filepath.Join(allow, "rel")))
	r.must(os.Symlink("a", filepath.Join(allow, "within")))
	r.must(os.Symlink("/proc/self/root", filepath.Join(allow, "magic")))
	r.must(os.Mkdir(filepath.Join(allow, "empty"), 0o755))
	r.must(os.WriteFile(filepath.Join(allow, "file"), nil, 0o600))
	for dir, text := range map[string]string{
		allow:                                    "not below",
		outside + "/vol":                         "not below",
		r.path("data"):                           "not below",
		allow + "/link/vol":                      "symbolic link",
		allow + "/link":                          "symbolic link",
		allow + "/rel":                           "symbolic link",
		allow + "/within/vol":                    "symbolic link",
		allow + "/magic" + outside + "/vol":      "symbolic link",
		allow + "/empty":                         "plyfs.json",
		allow + "/file":                          "not a directory",
		allow + "/missing":                       "no such file",
		allow + "/" + strings.Repeat("x/", 3000): "too long",
	} {
		r.wantErr(r.create("db", "cipherdir="+strings.TrimSuffix(dir, "/")), text)
	}
	r.wantNames("")

	r.mustCreate("db", "cipherdir="+inside)
	r.wantErr(r.create("second", "cipherdir="+inside), "is the volume db already")
	// Between Create and Mount somebody puts a symlink in its place.
	r.must(os.Rename(filepath.Join(allow, "a"), filepath.Join(allow, "b")))
	r.must(os.Symlink(outside, filepath.Join(allow, "a")))
	r.wantErr(errOf(r.Mount(context.Background(), "db", "x")), "symbolic link")
	r.wantCalls("")
}

func TestAdoptedIsWhatTheOptionsSay(t *testing.T) {
	r := newRig(t)
	dir := filepath.Join(r.dir, "allow", "vol")
	r.must(os.MkdirAll(dir, 0o755))
	r.must(writeVolume(dir, Description{"east", "db", 16384, 1}))
	for option, text := range map[string]string{
		"layers=2": "layers 1, not 2", "": "layers 1, not 2", "cluster=west": "cluster east", "group=web": "group db",
	} {
		opts := []string{"cipherdir=" + dir, "layers=1"}
		if option == "" {
			opts = opts[:1]
		} else {
			opts = append(opts, option)
		}
		r.wantErr(r.create("v", opts...), text)
	}
	r.mustCreate("v", "cipherdir="+dir, "layers=1", "cluster=east", "group=db")
}

// What is taken from elsewhere is mounted from the directory that was checked,
// and is never deleted.
func TestAdoptedIsBoundAndStays(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes bind mounts")
	}
	r := newRig(t)
	dir := filepath.Join(r.dir, "allow", "vol")
	r.must(os.MkdirAll(dir, 0o755))
	r.must(writeVolume(dir, Description{"default", "default", 4096, 2}))
	r.mustCreate("db", "cipherdir="+dir)
	at := r.mustMount("db", "a")
	t.Cleanup(func() { unbind(filepath.Join(r.dir, "state/adopted/db")) })
	if got := r.host.mounts[at]; got != r.path("adopted", "db") {
		t.Errorf("mounted from %s", got)
	}
	var bound, want unix.Stat_t
	r.must(unix.Stat(r.path("adopted", "db"), &bound))
	r.must(unix.Stat(dir, &want))
	if bound.Ino != want.Ino || bound.Dev != want.Dev {
		t.Error("another directory is bound")
	}
	r.restart()
	r.wantNames("db:1")
	r.mustUnmount("db", "a")
	if got := r.holds("adopted/db"); got != "" {
		t.Errorf("still bound: %s", got)
	}
	r.must(r.Remove(context.Background(), "db"))
	if _, err := os.Stat(filepath.Join(dir, "plyfs.json")); err != nil {
		t.Error(err)
	}
	if got := r.holds("adopted"); got != "" {
		t.Errorf("adopted/ holds %q", got)
	}
	r.mustCreate("again", "cipherdir="+dir)
}

// Whatever Docker sends is refused, or is a volume whose places lie below the
// state directory.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"Name":"db","Opts":{"block-size":"16384"}}`))
	f.Add([]byte(`{"Name":"../x","ID":"1"}`))
	f.Add([]byte(`{"Name":"db","Opts":{"cipherdir":"/srv/x/../y"}}`))
	f.Add([]byte(`{"Name":"db","Opts":{"journal-size":"64M","layers":"1","cluster":"a","group":"b"}}`))
	f.Add([]byte(`{"Name":null,"Opts":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseRequest(bytes.NewReader(body))
		if err != nil {
			return
		}
		if checkName(r.Name) == nil {
			place := filepath.Join("/state/data", r.Name)
			if filepath.Dir(place) != "/state/data" || strings.ContainsAny(r.Name, "/\x00\n ") {
				t.Fatalf("name %q leads to %s", r.Name, place)
			}
		}
		o, err := parseOptions(r.Opts)
		if err != nil {
			return
		}
		if p := o.CipherDir; p != "" && (filepath.Clean(p) != p || !filepath.IsAbs(p) || strings.Contains(p+"/", "/../")) {
			t.Fatalf("cipherdir %q", p)
		}
		for _, word := range []string{o.Cluster, o.Group, o.JournalSize} {
			if strings.ContainsAny(word, ", =\"\\\n\x00/") {
				t.Fatalf("%q would be more than one option", word)
			}
		}
		if o.withDefaults(Options{}) != o.withDefaults(Options{}).withDefaults(Options{}) {
			t.Fatal("defaults twice are others")
		}
	})
}
