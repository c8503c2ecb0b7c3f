package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/cmd/internal/mountopt"
)

func TestHelp(t *testing.T) {
	app := newApp(newConsole())
	top := inProcess(nil, "help")
	if top.code != 0 || top.stderr != "" {
		t.Fatalf("plyfs help: %v", top)
	}
	if again := inProcess(nil, "--help"); again != top {
		t.Errorf("plyfs --help is %v, plyfs help is %v", again, top)
	}
	var check func(path string, commands []*cli.Command)
	check = func(path string, commands []*cli.Command) {
		for _, c := range commands {
			if c.Hidden {
				if strings.Contains(top.stdout, c.Name) {
					t.Errorf("the hidden command %s is shown", c.Name)
				}
				continue
			}
			words := strings.Fields(path + " " + c.Name)
			r := inProcess(nil, append([]string{"help"}, words...)...)
			wantText(t, "help of "+c.Name, r.stdout, c.Usage, "Usage: plyfs "+strings.Join(words, " "))
			for _, f := range c.Flags {
				wantText(t, "help of "+c.Name, r.stdout, f.Names()[0])
			}
			for line := range strings.Lines(r.stdout) {
				if len(line) > 81 {
					t.Errorf("help of %s has a line of %d characters: %s", c.Name, len(line)-1, line)
				}
			}
			if with := inProcess(nil, append(words, "--help")...); with != r {
				t.Errorf("plyfs %s --help differs from plyfs help %s:\n%s\n%s", words, words, with, r)
			}
			check(strings.Join(words, " "), c.Subcommands)
		}
	}
	check("", app.Commands)
}

func TestHelpExitCodes(t *testing.T) {
	r := inProcess(nil, "help", "exit-codes")
	if n := strings.Count(r.stdout, "\n"); n != len(exitCodes) {
		t.Errorf("%d lines, want %d", n, len(exitCodes))
	}
}

// Every option that is understood is explained, and the other way round.
func TestHelpOptions(t *testing.T) {
	r := inProcess(nil, "help", "options")
	explained := map[string]bool{}
	for _, word := range regexp.MustCompile(`[a-z_][a-z_-]+`).FindAllString(r.stdout, -1) {
		explained[word] = true
	}
	for _, name := range mountopt.Names() {
		if !explained[name] {
			t.Errorf("option %s is not explained", name)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z_-]+)=`).FindAllStringSubmatch(r.stdout, -1) {
		value := "1"
		switch m[1] {
		case "journal-size":
			value = "16M"
		case "accept-rollback":
			value = "keys"
		}
		if _, err := mountopt.Parse(m[1] + "=" + value); err != nil && m[1] != "subtype" {
			t.Errorf("option %s is explained and not understood: %v", m[1], err)
		}
	}
}
