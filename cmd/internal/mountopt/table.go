package mountopt

import (
	"slices"
	"time"
)

// words are the options without a value.
var words = map[string]func(*Options) error{
	"ro":      set(func(o *Options) { o.ReadOnly = true }),
	"rw":      set(func(o *Options) { o.ReadOnly = false }),
	"exec":    set(func(o *Options) { o.NoExec = false }),
	"noexec":  set(func(o *Options) { o.NoExec = true }),
	"suid":    set(func(o *Options) { o.Suid = true }),
	"nosuid":  set(func(o *Options) { o.Suid = false }),
	"dev":     set(func(o *Options) { o.Dev = true }),
	"nodev":   set(func(o *Options) { o.Dev = false }),
	"sync":    set(func(o *Options) { o.Sync = true }),
	"async":   set(func(o *Options) { o.Sync = false }),
	"dirsync": set(func(o *Options) { o.DirSync = true }),

	"atime":         set(func(o *Options) { o.NoAtime = false }),
	"noatime":       set(func(o *Options) { o.NoAtime, o.StrictAtime = true, false }),
	"relatime":      set(func(o *Options) { o.NoAtime, o.StrictAtime = false, false }),
	"norelatime":    nothing,
	"strictatime":   set(func(o *Options) { o.NoAtime, o.StrictAtime = false, true }),
	"nostrictatime": set(func(o *Options) { o.StrictAtime = false }),
	"diratime":      set(func(o *Options) { o.NoDirAtime = false }),
	"nodiratime":    set(func(o *Options) { o.NoDirAtime = true }),
	"lazytime":      set(func(o *Options) { o.LazyTime = true }),
	"nolazytime":    set(func(o *Options) { o.LazyTime = false }),

	"allow_other":         set(func(o *Options) { o.AllowOther = On }),
	"noallow_other":       set(func(o *Options) { o.AllowOther = Off }),
	"default_permissions": nothing, // always on
	"debug":               set(func(o *Options) { o.Debug = true }),
	"accept-rollback":     func(o *Options) error { return setAcceptRollback(o, "all") },
	"remount":             set(func(o *Options) { o.Remount = true }),
	"defaults":            nothing,
	"auto":                nothing,
	"noauto":              nothing,
	"nofail":              nothing,
	"_netdev":             nothing,
	"silent":              nothing,
	"loud":                nothing,
	"iversion":            nothing,
	"noiversion":          nothing,
	"nouser":              nothing,
	"nogroup":             nothing,
	"noowner":             nothing,
	"user":                byUser,
	"users":               byUser,
	"owner":               bySome,
	"group":               bySome, // mount(8)'s, without a value
}

// values are the options with one.
var values = map[string]func(*Options, string) error{
	"keystore":              text(func(o *Options) *string { return &o.Keystore }),
	"data-keystore":         text(func(o *Options) *string { return &o.DataKeystore }),
	"infra-keystore":        text(func(o *Options) *string { return &o.InfraKeystore }),
	"data-key-file":         text(func(o *Options) *string { return &o.DataKeyFile }),
	"infra-key-file":        text(func(o *Options) *string { return &o.InfraKeyFile }),
	"data-passphrase-file":  text(func(o *Options) *string { return &o.DataPassphraseFile }),
	"infra-passphrase-file": text(func(o *Options) *string { return &o.InfraPassphraseFile }),
	"data-passphrase-fd":    descriptor("data-passphrase-fd", func(o *Options) *string { return &o.DataPassphraseFile }),
	"infra-passphrase-fd":   descriptor("infra-passphrase-fd", func(o *Options) *string { return &o.InfraPassphraseFile }),

	"data-passphrase-program":     from(ByProgram, func(o *Options) *string { return &o.DataPassphraseFile }),
	"infra-passphrase-program":    from(ByProgram, func(o *Options) *string { return &o.InfraPassphraseFile }),
	"data-passphrase-credential":  from(ByCredential, func(o *Options) *string { return &o.DataPassphraseFile }),
	"infra-passphrase-credential": from(ByCredential, func(o *Options) *string { return &o.InfraPassphraseFile }),

	"config":          text(func(o *Options) *string { return &o.Config }),
	"providers":       text(func(o *Options) *string { return &o.Providers }),
	"recovery":        text(func(o *Options) *string { return &o.Recovery }),
	"cluster":         text(func(o *Options) *string { return &o.Cluster }),
	"group":           text(func(o *Options) *string { return &o.Group }),
	"log":             text(func(o *Options) *string { return &o.Log }),
	"fsname":          text(func(o *Options) *string { return &o.FSName }),
	"subtype":         text(func(o *Options) *string { return &o.Subtype }),
	"layers":          setLayers,
	"journal":         text(func(o *Options) *string { return &o.Journal }),
	"journal-size":    setJournalSize,
	"revalidate":      duration("revalidate", func(o *Options) *time.Duration { return &o.Revalidate }),
	"grace":           duration("grace", func(o *Options) *time.Duration { return &o.Grace }),
	"accept-rollback": setAcceptRollback,
	"audit":           text(func(o *Options) *string { return &o.Audit }),
	"comment":         func(*Options, string) error { return nil },
	"uhelper":         func(*Options, string) error { return nil },
	"user":            func(o *Options, _ string) error { return byUser(o) }, // mtab's user=NAME
}

// Where a passphrase comes from, if not from a file: the beginnings of
// [Options.DataPassphraseFile].
const (
	ByDescriptor = "fd:"
	ByProgram    = "program:"
	ByCredential = "credential:"
)

// kernels are options that the kernel shows of a FUSE mount. mount(8) passes
// them on when it remounts what has no line in fstab.
var kernels = []string{"user_id", "group_id", "rootmode", "fd", "max_read", "blksize"}

// Names returns the names of all options in order, without x-*.
func Names() []string {
	names := make([]string, 0, len(words)+len(values))
	for n := range words {
		names = append(names, n)
	}
	for n := range values {
		names = append(names, n)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// TakesValue reports whether the option has a value. group, which is two
// options, may have one.
func TakesValue(name string) bool {
	_, ok := values[name]
	return ok && name != "user"
}

func set(f func(*Options)) func(*Options) error {
	return func(o *Options) error {
		f(o)
		return nil
	}
}

func text(field func(*Options) *string) func(*Options, string) error {
	return func(o *Options, v string) error {
		*field(o) = v
		return nil
	}
}

// descriptor takes the number of an open file and stores it as fd:N.
func descriptor(name string, field func(*Options) *string) func(*Options, string) error {
	return func(o *Options, v string) error {
		if !isNumber(v) {
			return &OptionError{Option: name, Reason: "it is the number of an open file descriptor", Err: ErrValue}
		}
		*field(o) = ByDescriptor + v
		return nil
	}
}

// from stores a value behind the word for where it leads.
func from(scheme string, field func(*Options) *string) func(*Options, string) error {
	return func(o *Options, v string) error {
		*field(o) = scheme + v
		return nil
	}
}

// isNumber reports whether v is a small decimal number.
func isNumber(v string) bool {
	if len(v) == 0 || len(v) > 9 {
		return false
	}
	for _, c := range []byte(v) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// nothing is for options that mount(8), systemd or the kernel has dealt with.
func nothing(*Options) error { return nil }

// byUser implies what mount(8) says user and users imply.
func byUser(o *Options) error {
	o.Suid, o.Dev, o.NoExec = false, false, true
	return nil
}

// bySome implies what mount(8) says owner and group imply.
func bySome(o *Options) error {
	o.Suid, o.Dev = false, false
	return nil
}
