package powercut

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/plyfs/plyfs/integration/scratch"
	"golang.org/x/sys/unix"
)

// env is what all tests of a run share; set once, by TestMain.
var env struct {
	bin     string // plyfs
	scratch string // removed at the end
	seed    uint64
	cuts    int  // of each workload on each target
	long    bool // make crash
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(recorderEnv); dir != "" {
		if err := serveRecorder(dir); err != nil {
			fmt.Fprintln(os.Stderr, "recorder:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(ownNamespace) == "" {
		os.Exit(rerun())
	}
	os.Exit(run(m))
}

// ownNamespace says that this process has a mount namespace of its own. One that
// another process makes meanwhile would else hold the mounts of these tests: after
// an unmount the daemon would not end, nor the disk be free.
const ownNamespace = "PLYFS_POWERCUT_NAMESPACE"

// rerun runs this program again in a mount namespace of its own, and returns its
// exit code.
func rerun() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), ownNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if os.Getuid() == 0 { // else it will say that it needs that
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	}
	runtime.LockOSThread() // whose end would be the child's
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "powercut:", err)
		return 1
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code
	}
	return 1 // by a signal
}

func run(m *testing.M) int {
	if os.Getuid() != 0 {
		fmt.Println("powercut: skipped, needs root (loop devices, mounts)")
		return 0
	}
	mode := os.Getenv("PLYFS_POWERCUT")
	if mode != "sample" && mode != "long" {
		fmt.Println("powercut: skipped, wants PLYFS_POWERCUT=sample or long")
		return 0
	}
	unix.Umask(0o022)
	err := scratch.LeaveOthers()
	if err == nil {
		err = setUp()
	}
	defer cleanUp()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		<-interrupted
		cleanUp()
		os.Exit(1)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "powercut:", err)
		return 1
	}
	fmt.Printf("powercut: PLYFS_SEED=%d\n", env.seed)
	return m.Run()
}

func setUp() error {
	env.seed = uint64(time.Now().UnixNano())
	if s := os.Getenv("PLYFS_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return fmt.Errorf("PLYFS_SEED: %w", err)
		}
		env.seed = n
	}
	env.long = os.Getenv("PLYFS_POWERCUT") == "long"
	env.cuts = 5
	if env.long {
		env.cuts = 12
	}
	if s := os.Getenv("PLYFS_CUTS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return fmt.Errorf("PLYFS_CUTS=%s: want a number of cuts", s)
		}
		env.cuts = n
	}
	base, err := scratchBase()
	if err != nil {
		return err
	}
	if env.scratch, err = scratch.MakeIn(base, "powercut"); err != nil {
		return err
	}
	env.bin, err = scratch.Plyfs(env.scratch)
	return err
}

// scratchBase prefers memory: the images are written anew for each cut.
func scratchBase() (string, error) {
	if dir := os.Getenv("TMPDIR"); dir != "" {
		return dir, nil
	}
	var fs unix.Statfs_t
	if unix.Statfs("/dev/shm", &fs) == nil && fs.Type == unix.TMPFS_MAGIC {
		var mem unix.Sysinfo_t
		const need = 4 << 30
		if unix.Sysinfo(&mem) == nil && mem.Freeram*uint64(mem.Unit) > need && fs.Bavail*uint64(fs.Bsize) > need {
			return "/dev/shm", nil
		}
	}
	return "/var/tmp", os.MkdirAll("/var/tmp", 0o1777)
}

func cleanUp() {
	if env.scratch == "" {
		return
	}
	if err := scratch.Remove(env.scratch); err != nil {
		fmt.Fprintln(os.Stderr, "powercut:", err)
	}
}
