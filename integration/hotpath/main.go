package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// passCommand is the argument with which this program is the pass-through.
const passCommand = "serve-pass-through"

type options struct {
	dir    string
	rounds int
	slice  time.Duration
	only   *regexp.Regexp
	json   bool
	image  bool
	plyfs  [][2]string // name and path

	scenarios string // path of a plyfs, or empty
	gocryptfs bool
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == passCommand {
		exit(servePassthrough(os.Args[2], os.Args[3]))
	}
	if len(os.Args) == 4 && os.Args[1] == bareCommand {
		exit(serveBare(os.Args[2], os.Args[3]))
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = measure(o)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "hotpath:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parse(args []string) (o options, err error) {
	base := os.Getenv("TMPDIR")
	if base == "" {
		base = "/var/tmp"
	}
	fs := flag.NewFlagSet("hotpath", flag.ContinueOnError)
	fs.StringVar(&o.dir, "dir", base, "where to make the scratch `directory`, on a disk")
	fs.IntVar(&o.rounds, "rounds", 49, "`number` of rounds")
	fs.DurationVar(&o.slice, "slice", 25*time.Millisecond, "`duration` of a slice")
	fs.BoolVar(&o.image, "image", false, "measure on a new ext4 with a journal, in a file below --dir")
	fs.BoolVar(&o.json, "json", false, "print JSON")
	fs.Func("only", "measure only workloads that match `regexp`", func(s string) (err error) {
		o.only, err = regexp.Compile(s)
		return err
	})
	fs.Func("plyfs", "a plyfs program to measure, `name=path`; may be given again", func(s string) error {
		name, path, ok := strings.Cut(s, "=")
		if !ok || name == "" || strings.ContainsAny(name, "/.") {
			return errors.New("want name=path")
		}
		o.plyfs = append(o.plyfs, [2]string{name, path})
		return nil
	})
	fs.StringVar(&o.scenarios, "scenarios", "", "measure the four scenarios with the plyfs at `path`")
	fs.BoolVar(&o.gocryptfs, "gocryptfs", false, "measure gocryptfs too, and gocryptfs in gocryptfs")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 || o.rounds < 1 || o.slice <= 0 {
		return o, errors.New("no arguments, a round and a slice are wanted")
	}
	return o, nil
}

// targets is how many directories and mounts are measured.
func (o options) targets() int {
	n := 3 + len(o.plyfs)
	if o.scenarios != "" {
		n += 4
	}
	if o.gocryptfs {
		n += 2
	}
	return n
}

// measure makes the targets, runs all rounds and prints the table.
func measure(o options) (err error) {
	if os.Getuid() != 0 {
		return errors.New("needs root, to mount")
	}
	// A thread in a system call must not keep another one waiting.
	runtime.GOMAXPROCS(max(runtime.NumCPU(), 8))
	var m *image
	if o.image {
		if m, err = newImage(o.dir); err != nil {
			return err
		}
		o.dir = m.dir
	}
	r := newRig()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		s := <-signals
		exit(errors.Join(fmt.Errorf("ended by %v", s), r.close(true), m.close()))
	}()
	defer func() { err = errors.Join(err, r.close(err != nil), m.close()) }()

	if m != nil {
		if err := m.mount(imageSize(o.targets(), o.rounds)); err != nil {
			return err
		}
	}
	if err := r.make(o.dir); err != nil {
		return err
	}
	if err := errors.Join(r.addPlain(), r.addPass(), r.addBare()); err != nil {
		return err
	}
	for _, p := range o.plyfs {
		if err := r.addPlyfs(p[0], p[1], nil, nil); err != nil {
			return err
		}
	}
	if o.scenarios != "" {
		if err := r.addScenarios(o.scenarios); err != nil {
			return err
		}
	}
	if o.gocryptfs {
		if err := r.addGocryptfs(); err != nil {
			return err
		}
	}
	b, err := newBench(r, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	rows, err := b.run(o)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(os.Stdout, rows)
	}
	fmt.Printf("On %s.\n%d rounds of %v slices. Speed to plain, above 1 is faster: of slices, median and quartiles of the\nrounds; of the median operations of all rounds.\n", describe(o.dir), o.rounds, o.slice)
	return printText(os.Stdout, rows)
}
