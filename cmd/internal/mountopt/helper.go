package mountopt

import (
	"fmt"
	"strings"
)

// Call is the command line of a mount helper, read.
type Call struct {
	Source, Target string
	Options        Options
	Lists          []string // what Options was read from, for Over
	Form           Form     // of the list, for Over
	Namespace      string   // -N: the mount namespace to mount in, or empty; the first one counts

	Sloppy  bool     // -s: unknown options are no error
	Fake    bool     // -f: do everything but mount
	NoMtab  bool     // -n: there is no mtab any more; nothing to do
	Verbose bool     // -v
	Ignored []string // names of the options that -s let pass
}

// ParseHelper reads what mount(8) gives to /sbin/mount.plyfs:
//
//	SOURCE TARGET [-sfnvrw] [-o OPTIONS]... [-N NAMESPACE] [-t TYPE]
//
// Flags may stand anywhere and together, as in -sfo ro. mount(8) has not
// entered the namespace when it calls a helper.
func ParseHelper(args []string) (Call, error) {
	c := Call{Form: Whole}
	var lists []string
	err := walk(args, &c, func(flag byte, arg func() (string, error)) error {
		switch flag {
		case 's':
			c.Sloppy = true
		case 'f':
			c.Fake = true
		case 'n':
			c.NoMtab = true
		case 'v':
			c.Verbose = true
		case 'r':
			lists = append(lists, "ro")
		case 'w':
			lists = append(lists, "rw")
		case 'o':
			v, err := arg()
			lists = append(lists, v)
			return err
		case 't':
			return takeType(arg)
		case 'N':
			v, err := arg()
			if c.Namespace == "" {
				c.Namespace = namespacePath(v)
			}
			return err
		default:
			return fmt.Errorf("%w: unknown flag -%c", ErrArgs, flag)
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	return c, c.read(lists)
}

// ParseFuse reads what mount.fuse3 gives to the program of the type
// fuse.plyfs:
//
//	SOURCE TARGET [-o OPTIONS]
//
// mount.fuse3 adds dev and suid by itself whenever the list does not say nodev
// and nosuid, so that in this form the two words state nothing: the mount
// stays nodev and nosuid.
func ParseFuse(args []string) (Call, error) {
	var c Call
	var lists []string
	err := walk(args, &c, func(flag byte, arg func() (string, error)) error {
		if flag != 'o' {
			return fmt.Errorf("%w: -%c is not understood in this form; use 'plyfs mount'", ErrArgs, flag)
		}
		v, err := arg()
		lists = append(lists, v)
		return err
	})
	if err != nil {
		return c, err
	}
	err = c.read(lists)
	c.Options.Dev, c.Options.Suid = false, false
	c.Form = Fuse
	return c, err
}

// Unmount is the command line of an unmount helper, read.
type Unmount struct {
	Target    string
	Namespace string // -N, or empty

	Force    bool // -f
	Lazy     bool // -l
	ReadOnly bool // -r: where it is busy, make it read-only
	Verbose  bool // -v
}

// ParseUnmount reads what umount(8) gives to /sbin/umount.fuse.plyfs:
//
//	TARGET [-nlfvr] [-t TYPE] [-N NAMESPACE]
func ParseUnmount(args []string) (Unmount, error) {
	var u Unmount
	places, err := scan(args, func(flag byte, arg func() (string, error)) error {
		switch flag {
		case 'f':
			u.Force = true
		case 'l':
			u.Lazy = true
		case 'r':
			u.ReadOnly = true
		case 'v':
			u.Verbose = true
		case 'n', 'c', 'i':
		case 't':
			return takeType(arg)
		case 'N':
			v, err := arg()
			if u.Namespace == "" {
				u.Namespace = namespacePath(v)
			}
			return err
		default:
			return fmt.Errorf("%w: unknown flag -%c", ErrArgs, flag)
		}
		return nil
	})
	if err == nil && len(places) != 1 || err == nil && places[0] == "" {
		err = fmt.Errorf("%w: one mountpoint is needed", ErrArgs)
	}
	if err != nil {
		return u, err
	}
	u.Target = places[0]
	return u, nil
}

// walk sorts args into c's source and target and calls f for each flag.
func walk(args []string, c *Call, f func(flag byte, arg func() (string, error)) error) error {
	places, err := scan(args, f)
	if err != nil {
		return err
	}
	if len(places) != 2 || places[0] == "" || places[1] == "" {
		return fmt.Errorf("%w: a ciphertext directory and a mountpoint are needed", ErrArgs)
	}
	c.Source, c.Target = places[0], places[1]
	return nil
}

// scan returns the words of args that are no flags, and calls f for each flag.
// arg gives the value of the flag at hand: the rest of its word, or the next
// one.
func scan(args []string, f func(flag byte, arg func() (string, error)) error) (places []string, err error) {
	for i := 0; i < len(args); i++ {
		word := args[i]
		if word == "--" {
			places = append(places, args[i+1:]...)
			break
		}
		if len(word) < 2 || word[0] != '-' {
			places = append(places, word)
			continue
		}
		for j := 1; j < len(word); j++ {
			flag := word[j]
			err := f(flag, func() (string, error) {
				rest := word[j+1:]
				j = len(word)
				if rest != "" {
					return rest, nil
				}
				if i++; i >= len(args) {
					return "", fmt.Errorf("%w: -%c needs a value", ErrArgs, flag)
				}
				return args[i], nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return places, nil
}

// namespacePath is the file of a namespace that is given by it or as the number
// of a process.
func namespacePath(v string) string {
	if isNumber(v) {
		return "/proc/" + v + "/ns/mnt"
	}
	return v
}

// takeType accepts the names under which a volume is mounted.
func takeType(arg func() (string, error)) error {
	switch v, err := arg(); {
	case err != nil:
		return err
	case v == "plyfs" || v == "fuse.plyfs" || v == "fuse":
		return nil
	default:
		return fmt.Errorf("%w: the type %q is not plyfs", ErrArgs, v)
	}
}

// read parses the lists, and checks what they say of source and type.
func (c *Call) read(lists []string) error {
	var ignore func(string)
	if c.Sloppy {
		ignore = func(name string) { c.Ignored = append(c.Ignored, name) }
	}
	c.Lists = lists
	for _, list := range lists {
		if err := c.Options.add(list, ignore); err != nil {
			return err
		}
	}
	if err := c.Options.checkShown(); err != nil {
		if !c.Sloppy {
			return err
		}
		ignore(c.Options.shown)
	}
	return c.Options.CheckIdentity(c.Source)
}

// CheckIdentity compares fsname= and subtype=, where given, with what the
// mount will have: its source as given, and the type plyfs.
func (o *Options) CheckIdentity(source string) error {
	if o.FSName != "" && strings.TrimRight(o.FSName, "/") != strings.TrimRight(source, "/") {
		return &OptionError{Option: "fsname", Reason: "the source of a mount is its ciphertext directory", Err: ErrValue}
	}
	if o.Subtype != "" && o.Subtype != "plyfs" {
		return &OptionError{Option: "subtype", Reason: "it is plyfs", Err: ErrValue}
	}
	return nil
}
