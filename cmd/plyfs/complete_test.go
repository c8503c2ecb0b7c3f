package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/cmd/internal/mountopt"
)

func completed(words ...string) []string {
	mounted := func() []string { return []string{"/mnt/a", "/mnt/b", "/srv/c"} }
	return completions(newApp(newConsole()), mounted, words)
}

func TestCompletions(t *testing.T) {
	tests := []struct {
		words string // separated by one blank each
		want  []string
	}{
		{"stat", []string{"status\tshow what is mounted, and how its keys are protected"}},
		{"nonsense ", nil},
		{"keystore ini", []string{"init\tmake a data and an infra key store"}},
		{"umount ", []string{"/mnt/a", "/mnt/b", "/srv/c"}},
		{"umount /mnt/a ", nil},
		{"status --json /mnt/b", []string{"/mnt/b"}},
		{"mount ", []string{anyDir}},
		{"mount /srv/v ", []string{anyDir}},
		{"mount /srv/v /mnt ", nil},
		{"mount --data-keystore ", []string{anyFile}},
		{"mount --data-keystore=/x", []string{anyFile}},
		{"mount --keystore /etc /srv/v ", []string{anyDir}},
		{"mount -o layer", []string{"layers="}},
		{"mount -o ro,x=y,noat", []string{"ro,x=y,noatime"}},
		{"mount --options=ro,noat", []string{"--options=ro,noatime"}},
		{"mount -- -", []string{anyDir}},
		{"inspect --jso", []string{"--json\tanswer in JSON"}},
		{"inspect ", []string{anyFile}},
		{"help exit", []string{"exit-codes"}},
		{"daemon", nil},
		{"--versio", []string{"--version\tprint the version"}},
	}
	for _, tt := range tests {
		if got := completed(strings.Split(tt.words, " ")...); !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %q, want %q", tt.words, got, tt.want)
		}
	}
	if r := inProcess(nil, "complete", "--", "mount", "--foregr"); r.stdout != "--foreground\tstay in the foreground, with the log on standard error\n" || r.code != 0 {
		t.Errorf("plyfs complete: %v", r)
	}
}

// Every command, flag and mount option that there is, and no hidden command.
func TestCompletionsAreComplete(t *testing.T) {
	var check func(path []string, commands []*cli.Command)
	check = func(path []string, commands []*cli.Command) {
		words := completed(append(slices.Clone(path), "")...)
		for _, c := range commands {
			if found := slices.Contains(words, c.Name+"\t"+c.Usage); found == c.Hidden {
				t.Errorf("%q %s: completed %v, hidden %v", path, c.Name, found, c.Hidden)
			}
			if c.Hidden {
				continue
			}
			here := append(slices.Clone(path), c.Name)
			flags := strings.Join(completed(append(here, "-")...), "\n") + "\n"
			for _, f := range c.Flags {
				for _, n := range f.Names() {
					if !strings.Contains(flags, "-"+n+"\t") {
						t.Errorf("%q: no flag %s", here, n)
					}
				}
			}
			if len(c.Subcommands) > 0 {
				check(here, c.Subcommands)
			}
		}
	}
	check(nil, newApp(newConsole()).Commands)
	options := completed("mount", "-o", "")
	for _, name := range mountopt.Names() {
		if !slices.Contains(options, name) && !slices.Contains(options, name+"=") {
			t.Errorf("no option %s", name)
		}
	}
}
