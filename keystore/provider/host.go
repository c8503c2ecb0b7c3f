package provider

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/plyfs/plyfs/keystore"
	"github.com/plyfs/plyfs/keystore/provider/protocol"
)

// Host is where a host's providers are. It implements keystore.Providers, reads a provider's file each time it is
// asked for it, and is safe for concurrent use once its fields are set.
type Host struct {
	// Dir holds a file NAME.json for each provider.
	Dir string
	// Path lists the directories that programs are looked for in, as PATH does; relative ones are passed over.
	Path string
	// Environ is what a provider's file may pass on of, as os.Environ returns it.
	Environ []string
	// Log takes what a program says on its standard error, a line at a time; nil: nobody hears it.
	Log func(line string)

	backoff time.Duration // before the second try; 0: defaultBackoff
}

// maxNameLen is the most characters of a provider's or a program's name.
const maxNameLen = 63

// Provider returns the provider of that name: ErrMissing when the host has none, ErrPermissions when others could have
// written its file or program, ErrUsage when the file says nothing that can be done, ErrUnavailable when its program
// is not there.
func (h *Host) Provider(name string) (keystore.Provider, error) { return h.Open(name) }

// Open is Provider, for those who also want to know what the program says of itself.
func (h *Host) Open(name string) (*Client, error) {
	if !validName(name) {
		return nil, fmt.Errorf("provider name %q: %w", protocol.Line(name, maxNameLen), keystore.ErrName)
	}
	c, err := readConfig(filepath.Join(h.Dir, name+".json"))
	if err != nil {
		return nil, err
	}
	p := &program{name: "plyfs-key-" + c.Program, timeout: c.timeout, env: c.environ(h.Environ, h.Path)}
	if p.path, err = findProgram(p.name, h.Path); err != nil {
		return nil, err
	}
	p.log = func(line string) {
		if h.Log != nil {
			h.Log(fmt.Sprintf("provider %s: %s: %s", name, p.name, line))
		}
	}
	backoff := h.backoff
	if backoff == 0 {
		backoff = defaultBackoff
	}
	return &Client{program: p, settings: c.Settings, tries: c.Tries, backoff: backoff}, nil
}

// List returns the names of the host's providers, sorted; none when there is no directory.
func (h *Host) List() ([]string, error) {
	entries, err := os.ReadDir(h.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list providers: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && validName(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func validName(s string) bool {
	return s != "" && len(s) <= maxNameLen && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// Client asks one provider. It implements keystore.Provider and is safe for concurrent use.
type Client struct {
	program  *program
	settings []byte
	tries    int
	backoff  time.Duration
}

// Describe returns what the program says of itself and of the key that it uses for those names. No key service is
// asked.
func (c *Client) Describe(ctx context.Context, n keystore.Names) (protocol.Description, error) {
	a, err := c.ask(ctx, n, &protocol.Request{Op: protocol.OpDescribe})
	if err != nil {
		return protocol.Description{}, err
	}
	d := *a.Description
	for _, text := range []*string{&d.Program, &d.Service, &d.Key} {
		*text = protocol.Line(*text, protocol.MaxText)
	}
	return d, nil
}

// Wrap implements keystore.Provider.
func (c *Client) Wrap(ctx context.Context, n keystore.Names, secret []byte) ([]byte, error) {
	if len(secret) == 0 {
		return nil, fmt.Errorf("empty secret: %w", keystore.ErrUsage)
	}
	a, err := c.ask(ctx, n, &protocol.Request{Op: protocol.OpWrap, Secret: secret})
	if err != nil {
		return nil, err
	}
	return a.Wrapped, nil
}

// Unwrap implements keystore.Provider.
func (c *Client) Unwrap(ctx context.Context, n keystore.Names, wrapped []byte) ([]byte, error) {
	if len(wrapped) == 0 || len(wrapped) > keystore.MaxWrapped {
		return nil, fmt.Errorf("wrapped secret of %d bytes: %w", len(wrapped), keystore.ErrUsage)
	}
	a, err := c.ask(ctx, n, &protocol.Request{Op: protocol.OpUnwrap, Wrapped: wrapped})
	if err != nil {
		return nil, err
	}
	return a.Secret, nil
}
