package mountopt

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name string
		list string
		want Options
	}{
		{"an empty list", "", Options{}},
		{"only commas", ",,,", Options{}},
		{"what mount(8) keeps to itself", "defaults,auto,noauto,nofail,_netdev,nouser,x-systemd.requires=/a,X-mount.mkdir,comment=hello", Options{}},
		{"read-only", "ro", Options{ReadOnly: true}},
		{"the later one wins", "ro,rw,suid,nosuid,dev,nodev,noexec,exec", Options{}},
		{"suid and dev on demand", "suid,dev", Options{Suid: true, Dev: true}},
		{"user implies noexec", "suid,user", Options{NoExec: true}},
		{"user with a later exec", "users,exec", Options{}},
		{"mtab's user=", "user=joe", Options{NoExec: true}},
		{"mount(8)'s group", "suid,group", Options{}},
		{"plyfs's group", "group=db", Options{Group: "db"}},
		{"atime family", "noatime,nodiratime,lazytime", Options{NoAtime: true, NoDirAtime: true, LazyTime: true}},
		{"strictatime over noatime", "noatime,strictatime", Options{StrictAtime: true}},
		{"fuse words", "allow_other,default_permissions", Options{AllowOther: On}},
		{"fuse words off", "allow_other,noallow_other", Options{AllowOther: Off}},
		{"stores", "keystore=/k,data-keystore=/d,infra-keystore=/i",
			Options{Keystore: "/k", DataKeystore: "/d", InfraKeystore: "/i"}},
		{"passphrases by file and descriptor", "data-passphrase-file=/d,infra-passphrase-fd=7",
			Options{DataPassphraseFile: "/d", InfraPassphraseFile: "fd:7"}},
		{"journal", "journal=/j,journal-size=64M,accept-rollback", Options{Journal: "/j", JournalSize: 64 << 20, AcceptOlderKeys: true, AcceptLostJournal: true}},
		{"older keys", "accept-rollback=keys", Options{AcceptOlderKeys: true}},
		{"a lost journal", "accept-rollback=journal", Options{AcceptLostJournal: true}},
		{"both, one by one", "accept-rollback=journal,accept-rollback=keys", Options{AcceptOlderKeys: true, AcceptLostJournal: true}},
		{"both", "accept-rollback=all", Options{AcceptOlderKeys: true, AcceptLostJournal: true}},
		{"journal's size in bytes", "journal-size=16777216", Options{JournalSize: 16 << 20}},
		{"journal's largest size", "journal-size=64g", Options{JournalSize: 64 << 30}},
		{"assertions", "cluster=c1,group=g1,layers=1", Options{Cluster: "c1", Group: "g1", Layers: 1}},
		{"an equals sign in a value", "log=/var/log/a=b", Options{Log: "/var/log/a=b"}},
		{"an escaped comma", `log=/var/log/a\,b,ro`, Options{Log: "/var/log/a,b", ReadOnly: true}},
		{"a quoted comma", `log="/var/log/a,b",ro`, Options{Log: "/var/log/a,b", ReadOnly: true}},
		{"a backslash that escapes nothing", `log=a\b`, Options{Log: `a\b`}},
		{"debug", "debug", Options{Debug: true}},
		{"a passphrase's file", "data-passphrase-file=/p,infra-passphrase-fd=3", Options{DataPassphraseFile: "/p", InfraPassphraseFile: "fd:3"}},
		{"a passphrase's program", "data-passphrase-program=/bin/p", Options{DataPassphraseFile: "program:/bin/p"}},
		{"a passphrase's credential", "infra-passphrase-credential=p", Options{InfraPassphraseFile: "credential:p"}},
		{"the later passphrase wins", "data-passphrase-program=/bin/p,data-passphrase-file=/p", Options{DataPassphraseFile: "/p"}},
		{"for systemd and desktops", "x-gvfs-show,x-gvfs-name=a%20b,x-systemd.automount,comment=a b,uhelper=fuse.plyfs", Options{}},
		{"a remount", "remount,ro", Options{Remount: true, ReadOnly: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.list)
			if err != nil {
				t.Fatalf("Parse(%q) = %v", tt.list, err)
			}
			got.shown = ""
			if got != tt.want {
				t.Errorf("Parse(%q) = %+v, want %+v", tt.list, got, tt.want)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct {
		list    string
		is      error
		nearest string
	}{
		{"keystroe=/a", ErrUnknown, "keystore"},
		{"nosiud", ErrUnknown, "nosuid"},
		{"defualts", ErrUnknown, "defaults"},
		{"allow-other", ErrUnknown, "allow_other"},
		{"zzzzzzzzzzzz", ErrUnknown, ""},
		{"RO", ErrUnknown, ""},
		{"=x", ErrUnknown, ""},
		{"ro=1", ErrValue, ""},
		{"keystore", ErrValue, ""},
		{"keystore=", ErrValue, ""},
		{"layers=3", ErrValue, ""},
		{"journal=", ErrValue, ""},
		{"journal-size=M", ErrValue, ""},
		{"journal-size=15M", ErrValue, ""},
		{"journal-size=65G", ErrValue, ""},
		{"journal-size=+16777216", ErrValue, ""},
		{"journal-size=99999999999999999999", ErrValue, ""},
		{"accept-rollback=1", ErrValue, ""},
		{"layers=two", ErrValue, ""},
		{`log="/a`, ErrValue, ""},
		{"data-passphrase-fd=x", ErrValue, ""},
		{"data-passphrase-fd=99999999999", ErrValue, ""},
		{"user_id=0", ErrUnknown, ""},
		{"rw,group_id=0,max_read=131072", ErrUnknown, ""},
		{"user_id", ErrUnknown, ""},
		{"data-passphrase-program=", ErrValue, ""},
		{"infra-passphrase-credential", ErrValue, ""},
		{"remount=ro", ErrValue, ""},
		{"passphrase=hunter2", ErrSecret, ""},
		{"data-passphrase=hunter2", ErrSecret, ""},
		{"ro\nrw", ErrArgs, ""},
		{"ro\x00", ErrArgs, ""},
	}
	for _, tt := range tests {
		t.Run(tt.list, func(t *testing.T) {
			_, err := Parse("ro", tt.list)
			if !errors.Is(err, tt.is) {
				t.Fatalf("Parse(%q) = %v, want %v", tt.list, err, tt.is)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the secret: %v", err)
			}
			var oe *OptionError
			if errors.As(err, &oe) && tt.is == ErrUnknown {
				if tt.nearest != "" && oe.Nearest != tt.nearest || tt.list == "zzzzzzzzzzzz" && oe.Nearest != "" {
					t.Errorf("nearest to %q = %q, want %q", tt.list, oe.Nearest, tt.nearest)
				}
			}
		})
	}
}

// What a live mount shows, changed by what a remount says.
func TestOver(t *testing.T) {
	const shown = "rw,nosuid,nodev,relatime,rw,user_id=0,group_id=0,default_permissions,allow_other,max_read=1048576"
	live := Options{Remount: true, AllowOther: On, shown: "max_read"}
	with := func(change func(*Options)) Options {
		o := live
		change(&o)
		return o
	}
	tests := []struct {
		name, shown string
		form        Form
		lists       []string
		want        Options
	}{
		{"nothing", shown, Partial, nil, live},
		{"read-only", shown, Partial, []string{"remount,ro"}, with(func(o *Options) { o.ReadOnly = true })},
		{"read-write again", "ro,nosuid,nodev,relatime,rw,user_id=0,allow_other,max_read=1", Partial, []string{"remount,rw"}, live},
		{"the filesystem's ro counts", "rw,nosuid,nodev,ro,allow_other,max_read=1", Partial, []string{"remount"}, with(func(o *Options) { o.ReadOnly = true })},
		{"noexec stays", "rw,nosuid,nodev,noexec,noatime,allow_other,max_read=1", Partial, []string{"remount,ro"},
			with(func(o *Options) { o.ReadOnly, o.NoExec, o.NoAtime = true, true, true })},
		{"suid stays", "rw,nodev,relatime,allow_other,max_read=1", Partial, []string{"remount,ro"}, with(func(o *Options) { o.ReadOnly, o.Suid = true, true })},
		{"suid goes", "rw,nodev,relatime,allow_other,max_read=1", Partial, []string{"remount,nosuid"}, live},
		{"mount.fuse3's dev and suid state nothing", shown, Fuse, []string{"remount,ro,dev,suid"}, with(func(o *Options) { o.ReadOnly = true })},
		{"mount.fuse3 keeps suid", "rw,nodev,allow_other,max_read=1", Fuse, []string{"remount,dev,suid"}, with(func(o *Options) { o.Suid = true })},
		{"fstab's options", shown, Partial, []string{"rw,cluster=c1,x-systemd.automount", "remount,noatime"},
			with(func(o *Options) { o.Cluster, o.NoAtime = "c1", true })},
		{"mount(8) leaves out exec and async", "rw,nosuid,nodev,noexec,sync,noatime,allow_other,max_read=1", Whole, []string{"rw,remount"}, live},
		{"mount(8) leaves out suid", "rw,nodev,allow_other,max_read=1", Whole, []string{"ro,remount"}, with(func(o *Options) { o.ReadOnly, o.Suid = true, true })},
		{"plyfs's nosuid stays", shown, Whole, []string{"rw,remount"}, live},
		{"what mount(8) repeats of the mount", shown, Whole, []string{shown + ",remount,ro"}, with(func(o *Options) { o.ReadOnly = true })},
		{"a name unknown to plyfs that the kernel shows", shown + ",frob", Partial, []string{"remount"}, live},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Over(tt.shown, tt.form, tt.lists...)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
	for list, want := range map[string]error{"noallow_other": ErrRemount, "layers=3": ErrValue} {
		if _, err := Over(shown, Partial, "remount", list); !errors.Is(err, want) {
			t.Errorf("a remount with %s: %v, want %v", list, err, want)
		}
	}
}

func TestFlags(t *testing.T) {
	tests := []struct {
		list string
		want uintptr
	}{
		{"", unix.MS_NOSUID | unix.MS_NODEV},
		{"suid,dev", 0},
		{"ro,noexec,noatime,nodiratime", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME},
		{"remount", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_REMOUNT | unix.MS_RELATIME},
		{"remount,noatime", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_REMOUNT | unix.MS_NOATIME},
		{"sync,dirsync,lazytime,strictatime", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC | unix.MS_LAZYTIME | unix.MS_STRICTATIME},
	}
	for _, tt := range tests {
		o, err := Parse(tt.list)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.Flags(); got != tt.want {
			t.Errorf("flags of %q = %#x, want %#x", tt.list, got, tt.want)
		}
	}
}

func TestToggle(t *testing.T) {
	for _, def := range []bool{false, true} {
		if Default.Or(def) != def || !On.Or(def) || Off.Or(def) {
			t.Errorf("toggles over a default of %v are wrong", def)
		}
	}
}

func TestParseHelper(t *testing.T) {
	tests := []struct {
		name string
		args string
		want Call
	}{
		{"as mount(8) calls it", "/c /m -o rw,layers=1", Call{Options: Options{Layers: 1}}},
		{"flags together", "/c /m -sfnv -o ro", Call{Sloppy: true, Fake: true, NoMtab: true, Verbose: true, Options: Options{ReadOnly: true}}},
		{"flags first", "-f -o ro /c /m", Call{Fake: true, Options: Options{ReadOnly: true}}},
		{"a value in the word of its flag", "/c /m -nooro", Call{}},
		{"-r, then -o rw", "/c /m -r -o rw", Call{}},
		{"type and namespace", "/c /m -t fuse.plyfs -N /proc/1/fd/3", Call{Namespace: "/proc/1/fd/3"}},
		{"the namespace of a process", "-N 17 /c /m -N /x", Call{Namespace: "/proc/17/ns/mnt"}},
		{"a remount of what has no line in fstab", "/c /m -o rw,remount,user_id=0", Call{Options: Options{Remount: true, shown: "user_id"}}},
		{"sloppy", "/c /m -s -o ro,barrier=1,frob", Call{Sloppy: true, Options: Options{ReadOnly: true}, Ignored: []string{"barrier", "frob"}}},
		{"the source repeated", "/c /m -o fsname=/c/,subtype=plyfs", Call{Options: Options{FSName: "/c/", Subtype: "plyfs"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := strings.Fields(tt.args)
			if tt.name == "a value in the word of its flag" {
				args = []string{"/c", "/m", "-nodebug"}
				tt.want = Call{NoMtab: true, Options: Options{Debug: true}}
			}
			got, err := ParseHelper(args)
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Source, tt.want.Target, tt.want.Lists, tt.want.Form = "/c", "/m", got.Lists, Whole
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
	for _, bad := range []string{"", "/c", "/c /m /x", "/c /m -o", "/c /m -q", "/c /m -t ext4", "/c /m -o fsname=/d", "/c /m -o subtype=x", "/c /m -t", "/c /m -o user_id=0"} {
		if _, err := ParseHelper(strings.Fields(bad)); err == nil {
			t.Errorf("ParseHelper(%q) gave no error", bad)
		}
	}
	if c, err := ParseHelper([]string{"--", "-c", "-m"}); err != nil || c.Source != "-c" || c.Target != "-m" {
		t.Errorf("after --: %+v, %v", c, err)
	}
}

func TestParseUnmount(t *testing.T) {
	tests := []struct {
		args string
		want Unmount
	}{
		{"/m", Unmount{}},
		{"/m -n -v -t fuse.plyfs", Unmount{Verbose: true}},
		{"/m -l -f -r", Unmount{Lazy: true, Force: true, ReadOnly: true}},
		{"-lv /m -N 17", Unmount{Lazy: true, Verbose: true, Namespace: "/proc/17/ns/mnt"}},
	}
	for _, tt := range tests {
		tt.want.Target = "/m"
		if got, err := ParseUnmount(strings.Fields(tt.args)); err != nil || got != tt.want {
			t.Errorf("%q: got %+v, %v, want %+v", tt.args, got, err, tt.want)
		}
	}
	for _, bad := range []string{"", "/m /n", "/m -q", "/m -t ext4", "/m -N"} {
		if _, err := ParseUnmount(strings.Fields(bad)); !errors.Is(err, ErrArgs) {
			t.Errorf("%q: %v, want %v", bad, err, ErrArgs)
		}
	}
}

func TestParseFuse(t *testing.T) {
	// What mount.fuse3 3.14 makes of: mount -t fuse.plyfs -o rw,noexec,cluster=a /c /m
	c, err := ParseFuse([]string{"/c", "/m", "-o", "rw,noexec,cluster=a,dev,suid"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Options.Dev || c.Options.Suid {
		t.Error("dev and suid that mount.fuse3 added were taken for the user's")
	}
	if !c.Options.NoExec || c.Options.Cluster != "a" {
		t.Errorf("options lost: %+v", c.Options)
	}
	if _, err := ParseFuse([]string{"/c", "/m", "-f"}); !errors.Is(err, ErrArgs) {
		t.Errorf("-f, which means two things: %v, want %v", err, ErrArgs)
	}
}

func TestNearest(t *testing.T) {
	for _, tt := range []struct{ word, want string }{
		{"mount", "mount"}, {"monut", "mount"}, {"unmount", "umount"}, {"stat", "status"}, {"", ""}, {"frobnicate", ""},
	} {
		if got := Nearest(tt.word, []string{"mount", "umount", "status", "info"}); got != tt.want {
			t.Errorf("Nearest(%q) = %q, want %q", tt.word, got, tt.want)
		}
	}
}

// FuzzParse: any list either parses or fails with one of the package's errors,
// a list that parses does so again when doubled, and no value of an error's
// option is shown.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "ro", "rw,nosuid,layers=1", `log="a,b",x-y=z`, `a\,b=\\`, "=,=", `""`, `log="`, "\\", "group,group=g"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		o, err := Parse(list)
		if err != nil {
			known := []error{ErrUnknown, ErrValue, ErrRemount, ErrSecret, ErrArgs}
			if !slices.ContainsFunc(known, func(k error) bool { return errors.Is(err, k) }) {
				t.Fatalf("Parse(%q) = %v, which is none of the package's errors", list, err)
			}
			return
		}
		again, err := Parse(list, list)
		if err != nil || again != o {
			t.Fatalf("Parse(%q) twice = %+v, %v; once = %+v", list, again, err, o)
		}
		if !o.Suid && o.Flags()&unix.MS_NOSUID == 0 || !o.Dev && o.Flags()&unix.MS_NODEV == 0 {
			t.Fatalf("Parse(%q): flags %#x do not say what %+v says", list, o.Flags(), o)
		}
	})
}

// FuzzHelper: a command line never panics, and what parses has both places.
func FuzzHelper(f *testing.F) {
	f.Add("/c\x1f/m\x1f-o\x1fro")
	f.Add("-sfo\x1f\x1f--\x1f-")
	f.Add("-o")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, "\x1f")
		for _, parse := range []func([]string) (Call, error){ParseHelper, ParseFuse} {
			if c, err := parse(args); err == nil && (c.Source == "" || c.Target == "") {
				t.Fatalf("%q parsed without its places: %+v", args, c)
			}
		}
		if u, err := ParseUnmount(args); err == nil && u.Target == "" {
			t.Fatalf("%q parsed without a mountpoint: %+v", args, u)
		}
	})
}

func TestTimes(t *testing.T) {
	for _, tt := range []struct {
		list              string
		revalidate, grace time.Duration
		bad               bool
	}{
		{"ro", DefaultRevalidate, DefaultGrace, false},
		{"revalidate=0,grace=0", 0, 0, false},
		{"revalidate=90s,grace=2h", 90 * time.Second, 2 * time.Hour, false},
		{"revalidate=1,grace=0s", time.Second, 0, false},
		{list: "revalidate=-1s", bad: true},
		{list: "revalidate=1ms", bad: true},
		{list: "grace=forever", bad: true},
		{list: "grace=2000h", bad: true},
		{list: "grace", bad: true},
	} {
		o, err := Parse(tt.list)
		if tt.bad {
			if !errors.Is(err, ErrValue) {
				t.Errorf("%s: %v, want %v", tt.list, err, ErrValue)
			}
			continue
		}
		if err != nil || o.RevalidateEvery() != tt.revalidate || o.GraceTime() != tt.grace || o.Revalidates() != (tt.revalidate > 0) {
			t.Errorf("%s: every %v, grace %v, %v", tt.list, o.RevalidateEvery(), o.GraceTime(), err)
		}
	}
}
