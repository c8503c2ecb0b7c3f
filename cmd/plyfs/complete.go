package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/plyfs/plyfs/cmd/internal/mountopt"
)

// completeCommand answers the shells' completion scripts, so that these know
// no more than how to ask and cannot get out of date.
func completeCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:   "complete",
		Usage:  "print what a command line could go on with",
		Hidden: true,
		Action: func(c *cli.Context) error {
			for _, s := range completions(c.App, mountedTargets, c.Args().Slice()) {
				con.print("%s\n", s)
			}
			return nil
		},
	}
}

// What a script completes by itself: it stands alone in the answer.
const (
	anyFile = ":file"
	anyDir  = ":dir"
)

// mountedTargets are the mountpoints of volumes.
func mountedTargets() []string {
	mounts, err := readMounts()
	if err != nil {
		return nil
	}
	var targets []string
	for _, m := range volumeMounts(mounts) {
		targets = append(targets, m.Target)
	}
	return targets
}

// completions returns how the last of words, which may be empty, can go on:
// whole words, each with an explanation behind a tab where there is one.
func completions(app *cli.App, mounted func() []string, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	done, last := words[:len(words)-1], words[len(words)-1]
	level, flags := app.Commands, app.Flags
	var cmd *cli.Command
	for len(done) > 0 && len(level) > 0 && !strings.HasPrefix(done[0], "-") {
		i := slices.IndexFunc(level, func(c *cli.Command) bool { return c.HasName(done[0]) })
		if i < 0 {
			return nil
		}
		cmd, done = level[i], done[1:]
		level, flags = cmd.Subcommands, cmd.Flags
	}
	if len(level) > 0 && !strings.HasPrefix(last, "-") {
		return startingWith(last, commandWords(level))
	}
	places, waiting, ended := placesOf(done, flags)
	switch {
	case waiting != nil:
		return valuesOf(waiting, last, "", mounted)
	case !ended && strings.HasPrefix(last, "--") && strings.Contains(last, "="):
		name, value, _ := strings.Cut(last, "=")
		if f := find(flags, name[2:]); f != nil {
			return valuesOf(f, value, name+"=", mounted)
		}
		return nil
	case !ended && strings.HasPrefix(last, "-"):
		return startingWith(last, flagWords(flags))
	case cmd == nil:
		return nil
	case cmd.Name == "help":
		return startingWith(last, append(commandWords(app.Commands), "exit-codes", "options"))
	}
	return placeWords(cmd.UsageText, places, last, mounted)
}

// commandWords are the names of commands with what they do.
func commandWords(commands []*cli.Command) []string {
	var words []string
	for _, c := range commands {
		if !c.Hidden {
			words = append(words, c.Name+"\t"+c.Usage)
		}
	}
	return words
}

// flagWords are the flags with their explanations.
func flagWords(flags []cli.Flag) []string {
	words := []string{"--help\texplain the command"}
	for _, f := range flags {
		for _, n := range f.Names() {
			dashes := "--"
			if len(n) == 1 {
				dashes = "-"
			}
			words = append(words, dashes+n+"\t"+strings.ReplaceAll(usageOf(f), "`", ""))
		}
	}
	return words
}

func usageOf(f cli.Flag) string {
	if d, ok := f.(cli.DocGenerationFlag); ok {
		return d.GetUsage()
	}
	return ""
}

// placesOf counts the arguments in words. waiting is the flag whose value
// comes next, or nil; ended says that "--" has come.
func placesOf(words []string, flags []cli.Flag) (places int, waiting cli.Flag, ended bool) {
	for i := 0; i < len(words); i++ {
		word := words[i]
		switch {
		case ended || len(word) < 2 || word[0] != '-':
			places++
			continue
		case word == "--":
			ended = true
			continue
		case strings.Contains(word, "="):
			continue
		}
		f := find(flags, strings.TrimLeft(word, "-"))
		if f == nil || !takesValue(f) {
			continue
		}
		if i++; i == len(words) {
			return places, f, false
		}
	}
	return places, nil, ended
}

// valueName is how a flag's explanation names its value.
var valueName = regexp.MustCompile("`([^`]*)`")

// valuesOf returns what can be a flag's value; prefix stands before it.
func valuesOf(f cli.Flag, value, prefix string, mounted func() []string) []string {
	m := valueName.FindStringSubmatch(usageOf(f))
	if m == nil {
		return nil
	}
	if m[1] == "OPTION,..." {
		return optionWords(value, prefix)
	}
	return kindWords(m[1], value, prefix, mounted)
}

// optionWords completes the last option of a list.
func optionWords(list, prefix string) []string {
	i := strings.LastIndexByte(list, ',') + 1
	var words []string
	for _, name := range mountopt.Names() {
		if mountopt.TakesValue(name) {
			name += "="
		}
		words = append(words, prefix+list[:i]+name)
	}
	return startingWith(prefix+list, words)
}

// kindWords returns what can stand where a usage text has the word kind.
func kindWords(kind, value, prefix string, mounted func() []string) []string {
	switch kind {
	case "FILE", "PATH", "CIPHERFILE":
		return []string{anyFile}
	case "DIR", "CIPHERDIR":
		return []string{anyDir}
	case "MOUNTPOINT":
		var words []string
		for _, m := range mounted() {
			words = append(words, prefix+m)
		}
		return startingWith(prefix+value, words)
	}
	return nil
}

// placeWords completes the argument that has so many before it, as the usage
// text names it. Behind a ciphertext directory a mountpoint is any directory,
// else one where a volume is mounted.
func placeWords(usage string, before int, last string, mounted func() []string) []string {
	var kinds []string
	for _, word := range strings.Fields(usage) {
		if word = strings.Trim(word, "[]."); word != "" && word == strings.ToUpper(word) && word != "OPTION" {
			kinds = append(kinds, word)
		}
	}
	if before >= len(kinds) {
		return nil
	}
	kind := kinds[before]
	if kind == "MOUNTPOINT" && slices.Contains(kinds[:before], "CIPHERDIR") {
		kind = "DIR"
	}
	return kindWords(kind, last, "", mounted)
}

// startingWith returns the words that begin with prefix.
func startingWith(prefix string, words []string) []string {
	return slices.DeleteFunc(words, func(w string) bool { return !strings.HasPrefix(w, prefix) })
}
