package protocol

import (
	"context"
	"fmt"
	"io"
	"syscall"
)

// prSetDumpable is PR_SET_DUMPABLE of prctl(2); programs of other modules need no golang.org/x/sys for it.
const prSetDumpable = 4

// Program is what a provider program says of itself.
type Program struct {
	Name    string // plyfs-key-NAME
	Version string
	Usage   string // several lines, for help
}

// Run is the frame of a program that takes no arguments but version and help: it answers the request that in holds, and
// returns the code to exit with.
func (p Program) Run(args []string, in io.Reader, out, errs io.Writer, open Open) int {
	if len(args) > 0 {
		switch args[0] {
		case "version", "--version":
			fmt.Fprintln(out, p.Name, p.Version)
		case "help", "--help", "-h":
			fmt.Fprint(out, p.Usage)
		default:
			fmt.Fprint(errs, p.Usage)
			return 2
		}
		return 0
	}
	Harden()
	if err := Serve(context.Background(), in, out, open); err != nil {
		fmt.Fprintf(errs, "%s: error: %v\n", p.Name, err)
		return 1
	}
	return 0
}

// Harden sees to it that no core file and no debugger of the same user sees a secret of this process. Best effort.
func Harden() {
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0)
	syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}
