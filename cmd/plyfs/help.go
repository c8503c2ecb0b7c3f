package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

func helpCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:      "help",
		Usage:     "explain a command, the exit codes or the mount options",
		UsageText: "plyfs help [COMMAND | exit-codes | options]",
		Action: func(c *cli.Context) error {
			topic := strings.Join(c.Args().Slice(), " ")
			switch topic {
			case "":
				con.print("%s", appHelp(c.App))
				return nil
			case "exit-codes":
				for _, e := range exitCodes {
					con.print("%3d  %-14s %s\n", e.code, e.name, e.meaning)
				}
				return nil
			case "options":
				con.print("%s", optionHelp)
				return nil
			}
			return helpOn(con, c, topic)
		},
	}
}

// helpOn prints the help of the command that topic's words name.
func helpOn(con *console, c *cli.Context, topic string) error {
	level, path := c.App.Commands, "plyfs"
	var cmd *cli.Command
	for word := range strings.FieldsSeq(topic) {
		cmd = nil
		for _, l := range level {
			if l.HasName(word) {
				cmd = l
			}
		}
		if cmd == nil {
			known := append(commandNames(level), "exit-codes", "options")
			return usageError(didYouMean(word, known, "see 'plyfs help'"), "no help on %q", topic)
		}
		level, path = cmd.Subcommands, path+" "+cmd.Name
	}
	con.print("%s", helpText(path, cmd))
	return nil
}

// helpColumn is where the explanations of flags begin.
const helpColumn = 33

// helpText is the help of the command that path spells.
func helpText(path string, c *cli.Command) string {
	var b strings.Builder
	usage := c.UsageText
	if usage == "" {
		usage = path + " COMMAND"
	}
	fmt.Fprintf(&b, "%s: %s\n\nUsage: %s\n", path, c.Usage, usage)
	if c.Description != "" {
		fmt.Fprintf(&b, "\n%s\n", c.Description)
	}
	if len(c.Subcommands) > 0 {
		fmt.Fprint(&b, "\nCommands:\n")
		for _, s := range c.Subcommands {
			fmt.Fprintf(&b, "   %-10s %s\n", s.Name, s.Usage)
		}
	}
	if len(c.Flags) > 0 {
		fmt.Fprint(&b, "\nOptions:\n")
		for _, f := range c.Flags {
			writeFlag(&b, f)
		}
	}
	return b.String()
}

// writeFlag writes a flag's names, the name of its value (between backquotes
// in its usage, as in package flag) and its usage.
func writeFlag(b *strings.Builder, f cli.Flag) {
	var names []string
	for _, n := range f.Names() {
		if len(n) == 1 {
			names = append(names, "-"+n)
		} else {
			names = append(names, "--"+n)
		}
	}
	left := strings.Join(names, ", ")
	usage := ""
	if d, ok := f.(cli.DocGenerationFlag); ok {
		usage = d.GetUsage()
		if parts := strings.SplitN(usage, "`", 3); len(parts) == 3 && d.TakesValue() {
			left += " " + parts[1]
		}
		usage = strings.ReplaceAll(usage, "`", "")
	}
	indent := strings.Repeat(" ", helpColumn)
	if len(left) > helpColumn-5 {
		fmt.Fprintf(b, "   %s\n%s", left, indent)
	} else {
		fmt.Fprintf(b, "   %-*s", helpColumn-3, left)
	}
	column := helpColumn
	for i, word := range strings.Fields(usage) {
		if i > 0 && column+1+len(word) > 79 {
			fmt.Fprint(b, "\n", indent)
			column = helpColumn
		} else if i > 0 {
			fmt.Fprint(b, " ")
			column++
		}
		fmt.Fprint(b, word)
		column += len(word)
	}
	fmt.Fprint(b, "\n")
}

// optionHelp is the answer of `plyfs help options`. Tests compare it with what
// package mountopt knows.
const optionHelp = `Mount options, in a list after -o or in fstab's fourth field:

  keystore=DIR                 directory of data.store and infra.store
  data-keystore=FILE           the data layer's key store, instead
  infra-keystore=FILE          the infra layer's key store, instead
  data-key-file=FILE           opens the data layer's store, instead of the
                               key file beside it
  infra-key-file=FILE          the same for the infra layer
  data-passphrase-file=FILE    its passphrase; fd:N is an open descriptor
  infra-passphrase-file=FILE   the same for the infra layer
  data-passphrase-fd=N         the same as data-passphrase-file=fd:N
  infra-passphrase-fd=N        the same for the infra layer
  data-passphrase-program=PATH
                               a program that prints it; its argument is the
                               layer's name
  infra-passphrase-program=PATH
                               the same for the infra layer
  data-passphrase-credential=NAME
                               the systemd credential that holds it; without
                               any of these, data-passphrase if there is one
  infra-passphrase-credential=NAME
                               the same for the infra layer
  config=FILE                  the volume's wrapped keys, if they are not in
                               CIPHERDIR/plyfs.json
  providers=DIR                the key providers of this host
  recovery=NAME                open by the recovery slots of that name, by their
                               passphrases
  cluster=NAME, group=NAME     refuse a volume of another cluster or group
  layers=1|2                   refuse a volume with other layers; 2 is the
                               default, a single-layer volume needs layers=1
  journal=DIR                  keep the journal there, on another disk; after a
                               crash the same directory is needed
  journal-size=SIZE            bound it to SIZE bytes, 16M to 64G; default 256M
  accept-rollback=keys|journal|all
                               mount a volume whose keys, or whose journal, are
                               older than this host has seen; journal also: one
                               that lost what was durable. Without a word: all
  revalidate=TIME              validate the keys again every TIME, such as 10m,
                               the default; 0: never
  grace=TIME                   how long nobody can be asked about the keys until
                               the volume turns inaccessible; 30m by default
  audit=FILE|syslog            where key events and authentication failures are
                               told; default syslog, else the log
  log=FILE                     write the daemon's log there
  debug                        log more, and every FUSE request

  ro, rw                       read-only or not
  suid, nosuid                 set-user-ID bits; nosuid is the default
  dev, nodev                   device nodes; nodev is the default
  exec, noexec                 programs
  atime, noatime, relatime, norelatime, strictatime, nostrictatime,
  diratime, nodiratime, lazytime, nolazytime, sync, async, dirsync
                               as in mount(8)
  allow_other, noallow_other   other users may enter; root's default
  default_permissions          the kernel checks modes; always on
  fsname=CIPHERDIR, subtype=plyfs
                               accepted if they say what is so

  defaults, auto, noauto, nofail, _netdev, silent, loud, iversion,
  noiversion, user, users, nouser, owner, noowner, group, nogroup,
  comment=..., uhelper=..., x-...
                               for mount(8) and systemd; user, users imply
                               nosuid,nodev,noexec
  remount                      change flags of a live mount: ro, noexec, ...;
                               with ro, the ciphertext comes to rest
`
