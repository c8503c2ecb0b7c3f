package dockervolume

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/plyfs/plyfs/cipher"
	"github.com/plyfs/plyfs/cmd/internal/mountopt"
	"github.com/plyfs/plyfs/keystore"
)

// maxName is the longest name of a volume, in bytes. It is a file's name, with
// room for what the plugin adds to it.
const maxName = 200

// checkName holds names to what Docker allows: letters, digits, and after the
// first also '_', '.' and '-'. Such a name is one component of a path, and none
// of the two special ones.
func checkName(name string) error {
	if name == "" {
		return fmt.Errorf("the volume has no name")
	}
	if len(name) > maxName {
		return fmt.Errorf("a volume's name has at most %d characters, this one %d", maxName, len(name))
	}
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '_' && c != '.' && c != '-') {
			return fmt.Errorf("a volume's name is made of letters, digits, '_', '.' and '-' and starts with a letter or digit; %q is not", name)
		}
	}
	return nil
}

// maxID is the longest ID of a use, in bytes. Docker's have 64.
const maxID = 256

// checkID refuses what Docker does not send.
func checkID(id string) error {
	if id == "" || len(id) > maxID || strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }) {
		return fmt.Errorf("%.80q is no ID of a mount", id)
	}
	return nil
}

// Options are what -o said of a volume. Zero means not said.
type Options struct {
	Cluster     string `json:"cluster,omitempty"`
	Group       string `json:"group,omitempty"`
	BlockSize   int    `json:"block_size,omitempty"`   // bytes; of a volume that is made
	Layers      int    `json:"layers,omitempty"`       // 1 or 2
	CipherDir   string `json:"cipherdir,omitempty"`    // absolute and clean: a volume that is there
	JournalSize string `json:"journal_size,omitempty"` // as mount -o takes it
}

// optionNames are the names that -o takes.
var optionNames = []string{"cluster", "group", "block-size", "layers", "cipherdir", "journal-size"}

// parseOptions reads the options of a Create.
func parseOptions(opts map[string]string) (Options, error) {
	var o Options
	names := make([]string, 0, len(opts))
	for name := range opts {
		names = append(names, name)
	}
	slices.Sort(names) // the same error for the same request
	for _, name := range names {
		if err := o.set(name, opts[name]); err != nil {
			return Options{}, err
		}
	}
	if o.CipherDir != "" && o.BlockSize != 0 {
		return Options{}, fmt.Errorf("block-size is of a volume that is made; the one in %s has its own", o.CipherDir)
	}
	return o, nil
}

func (o *Options) set(name, value string) error {
	bad := func(why string) error { return fmt.Errorf("option %s=%.80q: %s", name, value, why) }
	switch name {
	case "cluster", "group":
		if (keystore.Names{Cluster: value, Group: value}).Validate() != nil {
			return bad("a name has 1 to 63 characters of a-z, 0-9 and '-'")
		}
		if name == "cluster" {
			o.Cluster = value
		} else {
			o.Group = value
		}
	case "block-size":
		n, err := strconv.Atoi(value)
		if err == nil {
			_, err = cipher.NewLayout(n)
		}
		if err != nil || strconv.Itoa(n) != value {
			return bad("a block size is a power of two from 4096 to 65536")
		}
		o.BlockSize = n
	case "layers":
		switch value {
		case "1", "2":
			o.Layers = int(value[0] - '0')
		default:
			return bad("layers is 1 or 2")
		}
	case "cipherdir":
		if err := checkPath(value); err != nil {
			return bad(err.Error())
		}
		o.CipherDir = value
	case "journal-size":
		if strings.ContainsFunc(value, func(r rune) bool { return (r < '0' || r > '9') && !strings.ContainsRune("kKmMgG", r) }) {
			return bad("a number of bytes, with K, M or G")
		}
		if _, err := mountopt.Parse("journal-size=" + value); err != nil {
			return bad("16M to 64G")
		}
		o.JournalSize = value
	default:
		err := fmt.Errorf("unknown option %.80q", name)
		if near := mountopt.Nearest(name, optionNames); near != "" {
			return fmt.Errorf("%w: did you mean %s?", err, near)
		}
		return fmt.Errorf("%w: there are %s", err, strings.Join(optionNames, ", "))
	}
	return nil
}

// maxPath is the longest path, as the kernel's PATH_MAX.
const maxPath = 4095

// checkPath refuses a path that is not absolute and as short as can be: one
// spelling for one place.
func checkPath(p string) error {
	switch {
	case len(p) > maxPath:
		return fmt.Errorf("too long")
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }):
		return fmt.Errorf("a path without control characters")
	case !path.IsAbs(p) || path.Clean(p) != p || p == "/":
		return fmt.Errorf("an absolute path, without '.', '..' and superfluous slashes")
	}
	return nil
}

// withDefaults says what o means: what is not said is as def has it. Nothing
// is assumed of a volume that was there.
func (o Options) withDefaults(def Options) Options {
	if o.Layers == 0 {
		o.Layers = 2
	}
	if o.CipherDir != "" {
		return o
	}
	if o.Cluster == "" {
		o.Cluster = def.Cluster
	}
	if o.Group == "" {
		o.Group = def.Group
	}
	if o.BlockSize == 0 {
		o.BlockSize = cipher.MinBlockSize
	}
	return o
}

// String lists what was said, as -o takes it.
func (o Options) String() string {
	var said []string
	add := func(name, value string) {
		if value != "" && value != "0" {
			said = append(said, name+"="+value)
		}
	}
	add("cluster", o.Cluster)
	add("group", o.Group)
	add("block-size", strconv.Itoa(o.BlockSize))
	add("layers", strconv.Itoa(o.Layers))
	add("cipherdir", o.CipherDir)
	add("journal-size", o.JournalSize)
	return strings.Join(said, ",")
}
