package main

import (
	"strings"
	"testing"
)

func TestNormalise(t *testing.T) {
	tests := []struct{ name, line, want string }{
		{"flags first", "mount --keystore /k /c /m", "mount --keystore=/k -- /c /m"},
		{"flags last", "mount /c /m --keystore /k -f", "mount --keystore=/k -f -- /c /m"},
		{"flags between", "mount /c -f /m", "mount -f -- /c /m"},
		{"an equals sign", "mount --keystore=/k=1 /c /m", "mount --keystore=/k=1 -- /c /m"},
		{"one dash", "info -json /c", "info --json -- /c"},
		{"a short flag's value in its word", "mount -oro,x-a=b /c /m", "mount -o=ro,x-a=b -- /c /m"},
		{"a short flag's value in the next word", "mount -o ro /c /m", "mount -o=ro -- /c /m"},
		{"short flags together", "mount -fo ro /c /m", "mount -f -o=ro -- /c /m"},
		{"a value that looks like a flag", "mount -o -x /c /m", "mount -o=-x -- /c /m"},
		{"after --", "mount -- -c -m", "mount -- -c -m"},
		{"a dash alone is a place", "info -", "info -- -"},
		{"a subcommand", "keystore init --group g", "keystore init --group=g --"},
		{"help anywhere", "mount /c --help", "help -- mount"},
		{"help of a group", "keystore -h", "help -- keystore"},
		{"nothing", "", "--"},
		{"only a flag", "--version", "--version --"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := normalise(strings.Fields(tt.line), newApp(newConsole()))
			if err != nil {
				t.Fatal(err)
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got  %q\nwant %q", s, tt.want)
			}
		})
	}
}

func TestUsageErrors(t *testing.T) {
	tests := []struct{ line, want, hint string }{
		{"monut /c /m", `unknown command "monut"`, "did you mean mount?"},
		{"unmount /m", `unknown command "unmount"`, "did you mean umount?"},
		{"daemno", `unknown command "daemno"`, "see 'plyfs --help'"}, // hidden, so not proposed
		{"keystore inti", `unknown command "keystore inti"`, "did you mean init?"},
		{"keystore", `"keystore" needs a further word`, "it has: init"},
		{"mount --keystroe /k /c /m", "unknown flag --keystroe", "did you mean --keystore?"},
		{"mount -x /c /m", "unknown flag -x", "see 'plyfs mount --help'"},
		{"mount /c /m --keystore", "--keystore needs a value", "see 'plyfs mount --help'"},
		{"mount /c", "MOUNTPOINT is missing", "usage: plyfs mount [OPTION]... CIPHERDIR MOUNTPOINT"},
		{"mount /c /m /x", `one argument too many: "/x"`, "usage:"},
		{"version now", `one argument too many: "now"`, "no arguments"},
		{"mount /c /m -o keystroe=/k", `unknown mount option: "keystroe"`, "did you mean keystore?"},
		{"mount /c /m -o layers=3", `"layers": it is 1 or 2`, ""},
		{"mount /c /m -o passphrase=x", "a secret cannot be given", "name a file that holds it, or a program that prints it"},
		{"init --block-size 5000 /c", "block size 5000 is not a power of two", ""},
		{"init --block-size many /c", `invalid value "many"`, ""},
		{"init --cluster UPPER /c", "UPPER", "a-z"},
		{"inspect --blocks 5-3 /c", `"5-3" is not a range of blocks`, "--blocks 0-99"},
		{"speed --time 0s", "more than nothing", ""},
		{"help mout", `no help on "mout"`, "did you mean mount?"},
		{"daemon", "not started by hand", "use 'plyfs mount'"},
		{"mount --data-passphrase-fd 3 --infra-passphrase-fd 3 /c /m", "from the one descriptor fd:3", "a descriptor of its own"},
		{"mount --data-keystore /k --infra-keystore /k /c /m", "one key store for both layers", ""},
		{"mount -o fsname=/d /c /m", "fsname", ""},
		{"", "no command", ""},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			r := inProcess(nil, strings.Fields(tt.line)...)
			if r.code != int(exitUsage) {
				t.Errorf("exit code %d, want %d", r.code, exitUsage)
			}
			wantText(t, "standard error", r.stderr, "plyfs: error: ", tt.want, tt.hint)
			if r.stdout != "" {
				t.Errorf("standard output has %q", r.stdout)
			}
		})
	}
}
