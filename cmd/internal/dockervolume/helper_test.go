package dockervolume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeHost keeps volumes as directories with a file plyfs.json, and mounts in
// memory.
type fakeHost struct {
	mu     sync.Mutex
	mounts map[string]string // target: source
	dead   map[string]bool   // by target
	files  map[string]bool   // targets with open files
	held   map[string]bool   // sources that another process has open
	calls  []string

	makeErr, mountErr, unmountErr error
	mountGate                     func(ctx context.Context, source string) // while it runs, the mount takes time
}

func newFakeHost() *fakeHost {
	return &fakeHost{mounts: map[string]string{}, dead: map[string]bool{}, files: map[string]bool{}, held: map[string]bool{}}
}

func (h *fakeHost) note(format string, args ...any) {
	h.calls = append(h.calls, fmt.Sprintf(format, args...))
}

// called returns the calls that changed something, and forgets them.
func (h *fakeHost) called() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := strings.Join(h.calls, ", ")
	h.calls = nil
	return s
}

func (h *fakeHost) Make(_ context.Context, _, dir string, o Options) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note("make")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if h.makeErr != nil {
		return h.makeErr // half made
	}
	return writeVolume(dir, Description{o.Cluster, o.Group, o.BlockSize, o.Layers})
}

func writeVolume(dir string, d Description) error {
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "plyfs.json"), b, 0o600)
}

func (h *fakeHost) Describe(_, dir string) (d Description, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "plyfs.json"))
	if err != nil {
		return d, err
	}
	return d, json.Unmarshal(b, &d)
}

func (h *fakeHost) Unmake(name, _ string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note("unmake %s", name)
	return nil
}

func (h *fakeHost) Forget(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note("forget %s", name)
	return nil
}

func (h *fakeHost) Mount(ctx context.Context, _, source, target string, _ Options) error {
	if h.mountGate != nil {
		h.mountGate(ctx, source)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note("mount %s", filepath.Base(target))
	if h.mountErr != nil {
		return h.mountErr
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, err := os.Stat(filepath.Join(source, "plyfs.json")); err != nil {
		return err
	}
	if h.mounts[target] != "" {
		return errors.New("mounted already")
	}
	h.mounts[target] = source
	return nil
}

func (h *fakeHost) Unmount(_ context.Context, _, target string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note("unmount %s", filepath.Base(target))
	if h.files[target] {
		return fmt.Errorf("%w: files are open", ErrBusy)
	}
	delete(h.mounts, target)
	return h.unmountErr
}

// open says whether files are open at target.
func (h *fakeHost) open(target string, are bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files[target] = are
}

func (h *fakeHost) State(source, target string) (State, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.dead[target]:
		return Dead, nil
	case h.mounts[target] != "":
		return Serving, nil
	case h.held[source]:
		return Held, nil
	}
	return Absent, nil
}

func (h *fakeHost) Detach(target string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note("detach %s", filepath.Base(target))
	delete(h.dead, target)
	delete(h.mounts, target)
	return nil
}

// kill is the end of a volume's daemon.
func (h *fakeHost) kill(target string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dead[target] = true
}

func (h *fakeHost) mounted(target string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mounts[target] != "" && !h.dead[target]
}

// rig is a plugin on a directory of its own.
type rig struct {
	*Plugin
	t    *testing.T
	host *fakeHost
	dir  string
	boot string
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, host: newFakeHost(), dir: t.TempDir(), boot: "boot-1"}
	t.Cleanup(func() { r.stop() })
	r.start()
	return r
}

func (r *rig) start() {
	r.t.Helper()
	p, err := Open(context.Background(), Config{
		StateDir: filepath.Join(r.dir, "state"), Allow: []string{filepath.Join(r.dir, "allow")},
		Defaults: Options{Cluster: "default", Group: "default"}, BootID: r.boot,
		Host: r.host, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.Plugin = p
	p.background.Wait()
}

// stop ends the plugin as a kill does: nothing is saved or unmounted.
func (r *rig) stop() {
	if r.Plugin == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		r.t.Error(err)
	}
	r.Plugin = nil
}

func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	r.start()
}

func (r *rig) create(name string, options ...string) error {
	opts := map[string]string{}
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		opts[k] = v
	}
	return r.Create(context.Background(), name, opts)
}

func (r *rig) mustCreate(name string, options ...string) {
	r.t.Helper()
	r.must(r.create(name, options...))
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) mustMount(name, id string) string {
	r.t.Helper()
	at, err := r.Mount(context.Background(), name, id)
	r.must(err)
	return at
}

func (r *rig) mustUnmount(name, id string) {
	r.t.Helper()
	r.must(r.Unmount(context.Background(), name, id))
}

// wantErr fails unless err has every text.
func (r *rig) wantErr(err error, texts ...string) {
	r.t.Helper()
	if err == nil {
		r.t.Errorf("no error, want one with %q", texts)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			r.t.Errorf("error %q lacks %q", err, text)
		}
	}
}

// names lists the volumes and how many use each, as "a:1 b:0".
func (r *rig) names() string {
	var all []string
	for _, v := range r.List(context.Background()) {
		all = append(all, fmt.Sprintf("%s:%v", v.Name, v.Status["uses"]))
	}
	return strings.Join(all, " ")
}

func (r *rig) wantNames(want string) {
	r.t.Helper()
	if got := r.names(); got != want {
		r.t.Errorf("volumes %q, want %q", got, want)
	}
}

func (r *rig) wantCalls(want string) {
	r.t.Helper()
	if got := r.host.called(); got != want {
		r.t.Errorf("host did %q, want %q", got, want)
	}
}

// holds lists a directory of the state directory, suffixes cut off.
func (r *rig) holds(dir string) string {
	r.t.Helper()
	entries, err := os.ReadDir(r.path(dir))
	r.must(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}
