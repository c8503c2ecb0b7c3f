package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// run carries out one command line, args[0] being the program's name, and
// returns the exit code of the process.
func run(con *console, args []string) int {
	if len(args) == 0 {
		args = []string{"plyfs"}
	}
	if help := helperOf(args[0]); help != nil {
		return help(con, args[1:])
	}
	args = args[1:]
	if isFuseCall(args) {
		return fuseHelper(con, args)
	}
	answer := &answerWriter{w: con.stdout}
	con.stdout = answer
	err := runCommand(con, args)
	if err == nil && answer.err != nil {
		err = &problem{err: fmt.Errorf("the answer could not be written: %w", answer.err), code: exitIO,
			hint: "the command did what it was asked; repeat what only asks"}
	}
	if err != nil {
		return int(con.fail(err))
	}
	return int(exitOK)
}

// runCommand carries out what the words of args say.
func runCommand(con *console, args []string) error {
	app := newApp(con)
	line, err := normalise(args, app)
	if err != nil {
		return err
	}
	return app.Run(append([]string{"plyfs"}, line...))
}

// newApp lists the commands in the order in which they are needed.
func newApp(con *console) *cli.App {
	app := &cli.App{
		Name:      "plyfs",
		HelpName:  "plyfs",
		Usage:     "a filesystem for databases under two layers of encryption",
		UsageText: "plyfs COMMAND [OPTION]... [ARGUMENT]...",
		Commands: []*cli.Command{
			keystoreCommand(con),
			initCommand(con),
			keyCommand(con),
			mountCommand(con),
			umountCommand(con),
			freezeCommand(con),
			thawCommand(con),
			revalidateCommand(con),
			importCommand(con),
			statusCommand(con),
			infoCommand(con),
			inspectCommand(con),
			speedCommand(con),
			dockerPluginCommand(con),
			versionCommand(con),
			helpCommand(con),
			daemonCommand(con),
			dockerUnmountCommand(con),
			completeCommand(con),
			keyHelperCommand(con),
		},
		Flags:                     []cli.Flag{&cli.BoolFlag{Name: "version", Aliases: []string{"V"}, Usage: "print the version"}},
		Action:                    func(c *cli.Context) error { return bare(con, c) },
		HideHelp:                  true, // the command help does all of it
		HideVersion:               true,
		DisableSliceFlagSeparator: true,
		Writer:                    con.stdout,
		ErrWriter:                 con.stderr,
		OnUsageError:              asUsage,
		ExitErrHandler:            func(*cli.Context, error) {}, // run reports errors
	}
	dress(app.Commands)
	return app
}

// dress gives what every command has.
func dress(commands []*cli.Command) {
	for _, c := range commands {
		c.HideHelp = true
		c.OnUsageError = asUsage
		dress(c.Subcommands)
	}
}

// bare is plyfs without a command.
func bare(con *console, c *cli.Context) error {
	if c.Bool("version") {
		return printVersion(con, false)
	}
	if c.Args().Present() {
		return usageError("see 'plyfs --help'", "unknown command %q", c.Args().First())
	}
	fmt.Fprintf(con.stderr, "%s\n", appHelp(c.App))
	return usageError("", "no command")
}

// helperOf returns what the program does under a name that mount(8) or
// umount(8) looks for, or nil.
func helperOf(argv0 string) func(*console, []string) int {
	switch filepath.Base(argv0) {
	case "mount.plyfs", "mount.fuse.plyfs":
		return mountHelper
	case "umount.plyfs", "umount.fuse.plyfs":
		return unmountHelper
	}
	return nil
}

// isFuseCall reports whether args are those of mount.fuse3: a source, a
// target and options, without a command. A source has a slash; commands have
// none.
func isFuseCall(args []string) bool {
	return len(args) >= 2 && strings.Contains(args[0], "/") && !strings.HasPrefix(args[0], "-")
}

// commandNames returns the names of all commands that help mentions.
func commandNames(commands []*cli.Command) []string {
	var names []string
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return names
}

// appHelp is the help of plyfs itself.
func appHelp(app *cli.App) string {
	var b strings.Builder
	fmt.Fprintf(&b, "plyfs: %s\n\nUsage: %s\n\nCommands:\n", app.Usage, app.UsageText)
	for _, c := range app.Commands {
		if !c.Hidden {
			fmt.Fprintf(&b, "   %-14s %s\n", c.Name, c.Usage)
		}
	}
	fmt.Fprint(&b, "\n'plyfs COMMAND --help' explains a command, 'plyfs help exit-codes' the exit\n"+
		"codes, 'plyfs help options' the mount options. The manual is plyfs(1).\n")
	return b.String()
}
