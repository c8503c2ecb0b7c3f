package dockervolume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The protocol is nine POSTs with a JSON object each way. They are answered
// here and not by github.com/docker/go-plugins-helpers: that hands a driver no
// context, so that a Mount whose caller has hung up could not be taken back
// and its ID would keep the volume mounted for good; it reads bodies of any
// length; it cannot end its server without cutting off the requests under
// way; and it brings four modules along.

const (
	contentType = "application/vnd.docker.plugins.v1.1+json"
	// maxBody bounds a request in bytes.
	maxBody = 64 << 10
)

// request is what Docker sends: the fields of all nine.
type request struct {
	Name string
	ID   string
	Opts map[string]string
}

// parseRequest reads a body. Fields that are not known are of a newer Docker.
func parseRequest(body io.Reader) (request, error) {
	var r request
	b, err := io.ReadAll(io.LimitReader(body, maxBody+1))
	if err != nil {
		return r, err
	}
	if len(b) > maxBody {
		return r, fmt.Errorf("a request of more than %d bytes", maxBody)
	}
	if len(b) == 0 {
		return r, nil // Activate, List and Capabilities send none
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return request{}, fmt.Errorf("malformed request: %w", err)
	}
	return r, nil
}

type mountpoint struct{ Mountpoint string }

// Handler answers Docker.
func (p *Plugin) Handler() http.Handler {
	mux := http.NewServeMux()
	for path, f := range map[string]func(context.Context, request) (any, error){
		"/Plugin.Activate": func(context.Context, request) (any, error) {
			return map[string][]string{"Implements": {"VolumeDriver"}}, nil
		},
		"/VolumeDriver.Capabilities": func(context.Context, request) (any, error) {
			// A volume is of this machine; "global" would tell swarm that it is
			// the same everywhere.
			return map[string]any{"Capabilities": map[string]string{"Scope": "local"}}, nil
		},
		"/VolumeDriver.Create": func(ctx context.Context, r request) (any, error) {
			return struct{}{}, p.Create(ctx, r.Name, r.Opts)
		},
		"/VolumeDriver.Remove": func(ctx context.Context, r request) (any, error) {
			return struct{}{}, p.Remove(ctx, r.Name)
		},
		"/VolumeDriver.Mount": func(ctx context.Context, r request) (any, error) {
			m, err := p.Mount(ctx, r.Name, r.ID)
			return mountpoint{m}, err
		},
		"/VolumeDriver.Unmount": func(ctx context.Context, r request) (any, error) {
			return struct{}{}, p.Unmount(ctx, r.Name, r.ID)
		},
		"/VolumeDriver.Path": func(ctx context.Context, r request) (any, error) {
			m, err := p.Path(ctx, r.Name)
			return mountpoint{m}, err
		},
		"/VolumeDriver.Get": func(ctx context.Context, r request) (any, error) {
			v, err := p.Get(ctx, r.Name)
			return map[string]*Volume{"Volume": v}, err
		},
		"/VolumeDriver.List": func(ctx context.Context, _ request) (any, error) {
			return map[string][]*Volume{"Volumes": p.List(ctx)}, nil
		},
	} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { p.reply(w, r, path, f) })
	}
	return mux
}

// reply answers one request.
func (p *Plugin) reply(w http.ResponseWriter, r *http.Request, path string, f func(context.Context, request) (any, error)) {
	p.requests.Add(1)
	defer p.requests.Done()
	w.Header().Set("Content-Type", contentType)
	in, err := parseRequest(r.Body)
	status := http.StatusBadRequest
	var out any
	if err == nil {
		status = http.StatusInternalServerError
		out, err = f(r.Context(), in)
	}
	if err != nil {
		level := p.config.Log.Error
		if errors.Is(err, errNoVolume) {
			level = p.config.Log.Debug // Docker asks every plugin for every name
		}
		level("request failed", "request", path, "error", err)
		w.WriteHeader(status)
		out = map[string]string{"Err": err.Error()}
	}
	json.NewEncoder(w).Encode(out)
}

// endTime is how long a server that is told to end waits for requests under
// way.
const endTime = 30 * time.Second

// Serve answers on l until ctx ends, and returns when the requests under way
// are answered, or cut off and taken back.
func (p *Plugin) Serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{Handler: p.Handler()}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	if s.Shutdown(end) != nil {
		s.Close() // ends the contexts of the requests
	}
	p.requests.Wait()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Listen makes the socket, for root alone. One that another process left is
// replaced; one that a process answers on is ErrServed.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("%s: %w", path, ErrServed)
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("%s is there and no socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	old := unix.Umask(0o177) // from its first moment on
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
