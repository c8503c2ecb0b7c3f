package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/cmd/internal/mountopt"
)

// usageError is a command line that cannot be carried out as it stands.
func usageError(hint, format string, args ...any) error {
	return &problem{err: fmt.Errorf(format, args...), code: exitUsage, hint: hint}
}

// didYouMean is the hint for a misspelt word, or otherwise.
func didYouMean(word string, known []string, otherwise string) string {
	if near := mountopt.Nearest(word, known); near != "" {
		return "did you mean " + near + "?"
	}
	return otherwise
}

// normalise brings a command line, without the program's name, into the order
// that urfave/cli reads: the command's words, its flags, "--", the rest.
// People and mount(8) put flags behind the places they are about. Unknown
// words and flags are refused here, with the nearest known one. A flag that
// asks for help makes the line one of the command help.
func normalise(args []string, app *cli.App) ([]string, error) {
	words, cmd, rest, err := commandOf(args, app)
	if err != nil {
		return nil, err
	}
	flags := app.Flags
	if cmd != nil {
		flags = cmd.Flags
	}
	out := slices.Clone(words)
	var places []string
	for len(rest) > 0 {
		word := rest[0]
		rest = rest[1:]
		if word == "--" {
			places = append(places, rest...)
			break
		}
		if len(word) < 2 || word[0] != '-' {
			places = append(places, word)
			continue
		}
		if isHelp(word) {
			return append([]string{"help", "--"}, words...), nil
		}
		n, taken, err := flagOf(word, rest, flags, words)
		if err != nil {
			return nil, err
		}
		out, rest = append(out, n...), rest[taken:]
	}
	return append(append(out, "--"), places...), nil
}

// commandOf finds the command that args begin with. Without one, cmd is nil.
func commandOf(args []string, app *cli.App) (words []string, cmd *cli.Command, rest []string, err error) {
	level := app.Commands
	for len(args) > 0 && len(level) > 0 && !strings.HasPrefix(args[0], "-") {
		word := args[0]
		i := slices.IndexFunc(level, func(c *cli.Command) bool { return c.HasName(word) })
		if i < 0 {
			var known []string
			for _, c := range level {
				if !c.Hidden {
					known = append(known, c.Names()...)
				}
			}
			what := strings.Join(append(slices.Clone(words), word), " ")
			return nil, nil, nil, usageError(didYouMean(word, known, "see "+helpFor(words)), "unknown command %q", what)
		}
		cmd, words, args = level[i], append(words, word), args[1:]
		level = cmd.Subcommands
	}
	if len(level) > 0 && len(words) > 0 && (len(args) == 0 || !isHelp(args[0])) {
		var known []string
		for _, c := range level {
			known = append(known, c.Name)
		}
		return nil, nil, nil, usageError("it has: "+strings.Join(known, ", "), "%q needs a further word", strings.Join(words, " "))
	}
	return words, cmd, args, nil
}

func isHelp(word string) bool { return word == "-h" || word == "--help" || word == "-help" }

func helpFor(words []string) string {
	return "'" + strings.Join(append(append([]string{"plyfs"}, words...), "--help"), " ") + "'"
}

// flagOf reads the flag word, which may take its value from rest, and spells
// it --name=value. A word of short flags gives several.
func flagOf(word string, rest []string, flags []cli.Flag, words []string) (out []string, taken int, err error) {
	name, value, hasValue := strings.Cut(strings.TrimPrefix(word[1:], "-"), "=")
	if strings.HasPrefix(word, "--") || len(name) == 1 || find(flags, name) != nil {
		return oneFlag(name, value, hasValue, rest, flags, words)
	}
	for i := 1; i < len(word); i++ { // -fv, -oro, -fo ro
		name, value := word[i:i+1], word[i+1:]
		f := find(flags, name)
		if f == nil || !takesValue(f) || value == "" {
			o, n, err := oneFlag(name, "", false, rest, flags, words)
			if err != nil {
				return nil, 0, err
			}
			out, taken = append(out, o...), taken+n
			continue
		}
		return append(out, "-"+name+"="+value), taken, nil
	}
	return out, taken, nil
}

func oneFlag(name, value string, hasValue bool, rest []string, flags []cli.Flag, words []string) ([]string, int, error) {
	dashes := "--"
	if len(name) == 1 {
		dashes = "-"
	}
	f := find(flags, name)
	switch {
	case f == nil:
		var known []string
		for _, f := range flags {
			for _, n := range f.Names() {
				if len(n) > 1 {
					known = append(known, n)
				}
			}
		}
		hint := "see " + helpFor(words)
		if near := mountopt.Nearest(name, known); near != "" && len(name) > 1 {
			hint = "did you mean --" + near + "?"
		}
		return nil, 0, usageError(hint, "unknown flag %s%s", dashes, name)
	case !takesValue(f):
		if hasValue && strings.HasSuffix(name, "-passphrase") {
			return nil, 0, passphraseGiven(name)
		}
		if hasValue {
			return []string{dashes + name + "=" + value}, 0, nil
		}
		return []string{dashes + name}, 0, nil
	case hasValue:
		return []string{dashes + name + "=" + value}, 0, nil
	case len(rest) == 0:
		return nil, 0, usageError("see "+helpFor(words), "%s%s needs a value", dashes, name)
	}
	return []string{dashes + name + "=" + rest[0]}, 1, nil
}

func find(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

// places returns a command's arguments, which must be as many as names. A
// name in brackets may be missing.
func places(c *cli.Context, names ...string) ([]string, error) {
	got := c.Args().Slice()
	least := 0
	for _, n := range names {
		if !strings.HasPrefix(n, "[") {
			least++
		}
	}
	usage := "usage: plyfs " + c.Command.HelpName[len("plyfs "):] + " [OPTION]... " + strings.Join(names, " ")
	if len(names) == 0 {
		usage = "it takes no arguments besides its flags"
	}
	switch {
	case len(got) < least:
		return nil, usageError(usage, "%s is missing", names[len(got)])
	case len(got) > len(names) && givesPassphrase(c) != "":
		return nil, passphraseGiven(givesPassphrase(c))
	case len(got) > len(names):
		return nil, usageError(usage, "one argument too many: %q", got[len(names)])
	case slices.Contains(got, ""):
		return nil, usageError(usage, "an argument is empty")
	}
	for len(got) < len(names) {
		got = append(got, "")
	}
	return got, nil
}

// givesPassphrase is the flag of a command line that asks for a passphrase, or "".
func givesPassphrase(c *cli.Context) string {
	for _, name := range c.FlagNames() {
		if strings.HasSuffix(name, "-passphrase") {
			return name
		}
	}
	return ""
}

// passphraseGiven is the error of a command line that may hold a passphrase, which
// it does not repeat.
func passphraseGiven(flag string) error {
	return usageError("it is asked for at the terminal, or read from --"+flag+"-file FILE; the command line can be read by everybody, so choose another one",
		"--%s takes no value: a passphrase is never given on the command line", flag)
}

// asUsage is urfave's OnUsageError: what its flag parser found.
func asUsage(_ *cli.Context, err error, _ bool) error {
	var p *problem
	if errors.As(err, &p) {
		return err
	}
	return usageError("", "%w", err)
}
