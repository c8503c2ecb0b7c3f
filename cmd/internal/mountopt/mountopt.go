package mountopt

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Options is what the -o list of one mount says. The zero value is what an
// empty list says: read-write, nosuid, nodev, everything else not stated.
type Options struct {
	ReadOnly bool
	Suid     bool // honour set-user-ID bits and file capabilities
	Dev      bool // honour device nodes
	NoExec   bool
	Sync     bool
	DirSync  bool

	NoAtime     bool
	StrictAtime bool
	NoDirAtime  bool
	LazyTime    bool

	AllowOther Toggle // the mounting user's default differs

	Keystore            string // directory of both stores
	DataKeystore        string // file, instead of Keystore/data.store
	InfraKeystore       string // file, instead of Keystore/infra.store
	DataKeyFile         string // opens the data layer's store
	InfraKeyFile        string // opens the infra layer's store
	DataPassphraseFile  string // path, fd:N, program:PATH or credential:NAME
	InfraPassphraseFile string // the same

	Config    string // file, instead of the ciphertext directory's plyfs.json
	Providers string // directory of the host's key providers
	Recovery  string // name of the recovery slots to use

	Cluster string // asserted; empty: not stated
	Group   string // asserted; empty: not stated
	Layers  int    // asserted: 1 or 2; 0: not stated, which means 2

	Journal     string // directory of the journal's segments; empty: the ciphertext directory
	JournalSize int64  // bytes; 0: not stated

	AcceptOlderKeys   bool // than the host has seen
	AcceptLostJournal bool // one that lost what was durable, or is older than the host has seen

	Revalidate time.Duration // between validations of the keys; 0: not stated; negative: never
	Grace      time.Duration // without an answer about them; 0: not stated; negative: none
	Audit      string        // file, or syslog; empty: not stated

	Log   string // file
	Debug bool

	FSName  string // must equal the ciphertext directory
	Subtype string // must be plyfs

	Remount bool // change a live mount; Over says what becomes of it

	shown string // an option that only a live mount can show, or empty
}

// Toggle is an option whose absence is not the same as its negation.
type Toggle uint8

const (
	Default Toggle = iota
	Off
	On
)

// Or returns what t says, or def where it says nothing.
func (t Toggle) Or(def bool) bool {
	if t == Default {
		return def
	}
	return t == On
}

// Errors of a list. Each is wrapped with the option it is about.
var (
	// ErrUnknown reports that an option is not one of plyfs's.
	ErrUnknown = errors.New("unknown mount option")
	// ErrValue reports a missing, superfluous or unusable value.
	ErrValue = errors.New("bad value of a mount option")
	// ErrRemount reports that a live mount was asked to change what it cannot.
	ErrRemount = errors.New("a mounted volume cannot change this option")
	// ErrSecret reports that an option would have carried a secret.
	ErrSecret = errors.New("a secret cannot be given as a mount option")
	// ErrArgs reports a malformed command line of a mount helper.
	ErrArgs = errors.New("malformed command line")
)

// OptionError is an error about one option of a list.
type OptionError struct {
	Option  string // its name as given, never its value
	Nearest string // the known name it resembles most, or empty
	Reason  string // what is wrong with the value, or empty
	Err     error  // ErrUnknown, ErrValue, ErrRemount or ErrSecret
}

func (e *OptionError) Error() string {
	s := fmt.Sprintf("%v: %q", e.Err, e.Option)
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

func (e *OptionError) Unwrap() error { return e.Err }

// Parse reads lists in order; a later option overrides an earlier one.
func Parse(lists ...string) (Options, error) {
	var o Options
	for _, list := range lists {
		if err := o.add(list, nil); err != nil {
			return o, err
		}
	}
	return o, o.checkShown()
}

// Form says what it means for a remount that an option is not in the list.
type Form uint8

const (
	// Partial is a person's: what is not there stays as it is.
	Partial Form = iota
	// Whole is mount(8)'s, which leaves out exec, async, suid, dev and the like
	// where they hold: what is not there is off. nosuid and nodev, the default
	// of plyfs, stay.
	Whole
	// Fuse is that of mount.fuse3: as Whole, and suid and dev state nothing.
	Fuse
)

// Over reads lists on top of shown, the options of a live mount as
// /proc/mounts has them: what becomes of it by a remount.
func Over(shown string, form Form, lists ...string) (Options, error) {
	o := Options{Suid: true, Dev: true, Remount: true}
	if err := o.add(shown, func(string) {}); err != nil {
		return o, err
	}
	// The mount and its filesystem each have a word for it.
	o.ReadOnly = slices.Contains(strings.Split(shown, ","), "ro")
	before := o
	if form != Partial {
		o.NoExec, o.Sync, o.DirSync = false, false, false
		o.NoAtime, o.StrictAtime, o.NoDirAtime, o.LazyTime = false, false, false, false
	}
	for _, list := range lists {
		if err := o.add(list, func(string) {}); err != nil {
			return o, err
		}
	}
	if form == Fuse {
		o.Suid, o.Dev = o.Suid && before.Suid, o.Dev && before.Dev
	}
	if o.AllowOther.Or(false) != before.AllowOther.Or(false) {
		return o, &OptionError{Option: "allow_other", Reason: "unmount it, and mount it again", Err: ErrRemount}
	}
	return o, nil
}

// checkShown refuses, outside of a remount, what a mount shows and nobody asks
// for.
func (o *Options) checkShown() error {
	if o.shown == "" || o.Remount {
		return nil
	}
	return &OptionError{Option: o.shown, Nearest: Nearest(o.shown, Names()), Err: ErrUnknown}
}

// add hands what it does not know to ignore, or fails where that is nil.
func (o *Options) add(list string, ignore func(name string)) error {
	items, err := split(list)
	if err != nil {
		return err
	}
	for _, item := range items {
		err := o.set(item)
		if errors.Is(err, ErrUnknown) && ignore != nil {
			ignore(item.name)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// item is one element of a list: name, or name=value.
type item struct {
	name, value string
	hasValue    bool
}

// split cuts a list at its commas. \, and \\ stand for themselves in a value,
// and quotes around a whole value keep its commas. Empty elements are skipped,
// as mount(8) skips them.
func split(list string) ([]item, error) {
	var items []item
	var cur strings.Builder
	var it item
	quoted := false
	flush := func() {
		if it.hasValue {
			it.value = cur.String()
		} else {
			it.name = cur.String()
		}
		if it.name != "" || it.hasValue {
			items = append(items, it)
		}
		it = item{}
		cur.Reset()
	}
	for i := 0; i < len(list); i++ {
		c := list[i]
		switch {
		case c == 0 || c == '\n':
			return nil, fmt.Errorf("%w: a newline or NUL in the list of mount options", ErrArgs)
		case c == '\\' && i+1 < len(list) && (list[i+1] == ',' || list[i+1] == '\\' || list[i+1] == '"'):
			i++
			cur.WriteByte(list[i])
		case c == '"' && it.hasValue && (quoted || cur.Len() == 0):
			quoted = !quoted
		case c == ',' && !quoted:
			flush()
		case c == '=' && !it.hasValue:
			it.name, it.hasValue = cur.String(), true
			cur.Reset()
		default:
			cur.WriteByte(c)
		}
	}
	if quoted {
		return nil, &OptionError{Option: it.name, Reason: "the closing quote is missing", Err: ErrValue}
	}
	flush()
	return items, nil
}

// Escape returns what stands for a value in a list.
func Escape(value string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`, `"`, `\"`).Replace(value)
}

// set applies one element.
func (o *Options) set(it item) error {
	if strings.HasPrefix(it.name, "x-") || strings.HasPrefix(it.name, "X-") {
		return nil // for userspace: systemd, udisks, mount(8) itself
	}
	if isSecret(it.name) {
		return &OptionError{Option: it.name, Err: ErrSecret}
	}
	if !it.hasValue {
		if f, ok := words[it.name]; ok {
			return f(o)
		}
		if _, ok := values[it.name]; ok {
			return &OptionError{Option: it.name, Reason: "it needs a value, as in " + it.name + "=VALUE", Err: ErrValue}
		}
	}
	if it.hasValue && slices.Contains(kernels, it.name) {
		o.shown = it.name
		return nil
	}
	if f, ok := values[it.name]; ok {
		if it.value == "" {
			return &OptionError{Option: it.name, Reason: "the value is empty", Err: ErrValue}
		}
		return f(o, it.value)
	}
	if _, ok := words[it.name]; ok {
		return &OptionError{Option: it.name, Reason: "it takes no value", Err: ErrValue}
	}
	return &OptionError{Option: it.name, Nearest: Nearest(it.name, Names()), Err: ErrUnknown}
}

// isSecret catches what people bring along from other filesystems.
func isSecret(name string) bool {
	switch strings.ToLower(name) {
	case "pass", "password", "passphrase", "passwd", "key", "secret",
		"data-passphrase", "infra-passphrase", "data-password", "infra-password":
		return true
	}
	return false
}

func setLayers(o *Options, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n != 1 && n != 2 {
		return &OptionError{Option: "layers", Reason: "it is 1 or 2", Err: ErrValue}
	}
	o.Layers = n
	return nil
}

// setAcceptRollback reads what is accepted to be older than it should be.
func setAcceptRollback(o *Options, v string) error {
	switch v {
	case "keys":
		o.AcceptOlderKeys = true
	case "journal":
		o.AcceptLostJournal = true
	case "all":
		o.AcceptOlderKeys, o.AcceptLostJournal = true, true
	default:
		return &OptionError{Option: "accept-rollback", Reason: "it is keys, journal or all", Err: ErrValue}
	}
	return nil
}

// MinJournalSize is the least that journal-size may say, in bytes.
const MinJournalSize = 16 << 20

// setJournalSize reads a number of bytes, with K, M or G for powers of 1024.
func setJournalSize(o *Options, v string) error {
	bad := &OptionError{Option: "journal-size", Reason: "it is a number of bytes from 16M to 64G, as in 256M", Err: ErrValue}
	digits, shift := v, 0
	switch v[len(v)-1] {
	case 'k', 'K':
		shift = 10
	case 'm', 'M':
		shift = 20
	case 'g', 'G':
		shift = 30
	}
	if shift > 0 {
		digits = v[:len(v)-1]
	}
	n, err := strconv.ParseUint(digits, 10, 37)
	if err != nil || digits[0] == '+' || n > 64<<30>>shift || n<<shift < MinJournalSize {
		return bad
	}
	o.JournalSize = int64(n << shift)
	return nil
}

// What applies where nothing is stated.
const (
	DefaultRevalidate = 10 * time.Minute
	DefaultGrace      = 30 * time.Minute
)

// RevalidateEvery returns the time between validations of the keys, 0 for never.
func (o *Options) RevalidateEvery() time.Duration { return stated(o.Revalidate, DefaultRevalidate) }

// Revalidates reports whether the keys are validated again.
func (o *Options) Revalidates() bool { return o.RevalidateEvery() > 0 }

// GraceTime returns how long the keys may be without an answer.
func (o *Options) GraceTime() time.Duration { return stated(o.Grace, DefaultGrace) }

func stated(d, def time.Duration) time.Duration {
	switch {
	case d == 0:
		return def
	case d < 0:
		return 0
	}
	return d
}

// duration takes a time such as 10m, a number of seconds, and 0.
func duration(name string, field func(*Options) *time.Duration) func(*Options, string) error {
	return func(o *Options, v string) error {
		if isNumber(v) {
			v += "s"
		}
		d, err := time.ParseDuration(v)
		switch {
		case err != nil || d < 0 || d > 0 && d < time.Second || d > 1000*time.Hour:
			return &OptionError{Option: name, Reason: "it is a time from 1s to 1000h, as in 90s or 10m, or 0", Err: ErrValue}
		case d == 0:
			d = -1
		}
		*field(o) = d
		return nil
	}
}

// Flags returns the MS_ flags of mount(2) for o. In a remount the absence of
// a flag for access times would mean that they stay as they are.
func (o *Options) Flags() uintptr {
	var f uintptr
	for _, b := range []struct {
		on   bool
		flag uintptr
	}{
		{o.ReadOnly, unix.MS_RDONLY}, {!o.Suid, unix.MS_NOSUID}, {!o.Dev, unix.MS_NODEV},
		{o.NoExec, unix.MS_NOEXEC}, {o.Sync, unix.MS_SYNCHRONOUS}, {o.DirSync, unix.MS_DIRSYNC},
		{o.NoAtime, unix.MS_NOATIME}, {o.StrictAtime, unix.MS_STRICTATIME},
		{o.NoDirAtime, unix.MS_NODIRATIME}, {o.LazyTime, unix.MS_LAZYTIME},
		{o.Remount, unix.MS_REMOUNT}, {o.Remount && !o.NoAtime && !o.StrictAtime, unix.MS_RELATIME},
	} {
		if b.on {
			f |= b.flag
		}
	}
	return f
}
