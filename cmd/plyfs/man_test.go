package main

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/cmd/internal/mountopt"
)

func manual(t *testing.T, page string) string {
	t.Helper()
	b, err := os.ReadFile("man/" + page)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Every command and flag is in plyfs(1), every mount option in mount.plyfs(8).
func TestManualsAreComplete(t *testing.T) {
	text := manual(t, "plyfs.1")
	var check func(string, []*cli.Command)
	check = func(above string, commands []*cli.Command) {
		for _, c := range commands {
			if c.Hidden {
				continue
			}
			words := above + c.Name
			if !regexp.MustCompile(`\.(It )?Cm (.* , )?` + words + `\b`).MatchString(text) {
				t.Errorf("plyfs(1) lacks the command %s", words)
			}
			for _, f := range c.Flags {
				name := f.Names()[0]
				if len(name) > 1 {
					name = "-" + name
				}
				if !regexp.MustCompile(`(Fl |, )` + name + `\b`).MatchString(text) {
					t.Errorf("plyfs(1) lacks the flag -%s of %s", name, c.Name)
				}
			}
			check(words+" ", c.Subcommands)
		}
	}
	check("", newApp(newConsole()).Commands)

	text = manual(t, "mount.plyfs.8")
	for _, name := range mountopt.Names() {
		if !regexp.MustCompile(`(Cm |, )` + name + `\b`).MatchString(text) {
			t.Errorf("mount.plyfs(8) lacks the option %s", name)
		}
	}
}

func TestManualsRender(t *testing.T) {
	if _, err := exec.LookPath("groff"); err != nil {
		t.Fatal("groff is not installed; make deps brings it")
	}
	for _, page := range []string{"plyfs.1", "mount.plyfs.8", "plyfs-providers.5", "plyfs-mysql.7"} {
		var errs strings.Builder
		cmd := exec.Command("groff", "-mdoc", "-ww", "-rLL=80n", "-Tutf8", "man/"+page)
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil || errs.Len() > 0 || len(out) < 1000 {
			t.Errorf("%s: %v, %d bytes\n%s", page, err, len(out), &errs)
		}
	}
}

// What the guide says to type is understood.
func TestGuideNamesCommands(t *testing.T) {
	text := manual(t, "plyfs-mysql.7")
	app := newApp(newConsole())
	found := regexp.MustCompile(`(?m)^(?:\.It |\.Bd.*\n)?(?:\.Ql )?plyfs ([a-z].*?)(?: [.,;])?$`).FindAllStringSubmatch(text, -1)
	for _, m := range found {
		if _, err := normalise(strings.Fields(m[1]), app); err != nil {
			t.Errorf("plyfs %s: %v", m[1], err)
		}
	}
	if len(found) < 4 {
		t.Errorf("%d commands found", len(found))
	}
	for _, m := range regexp.MustCompile(`Fl o Cm ([a-z-]+)=`).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(mountopt.Names(), m[1]) {
			t.Errorf("no option %s", m[1])
		}
	}
}
