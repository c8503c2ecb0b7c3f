package powercut

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// env is what all tests of a run share; set once, by TestMain.
var env struct {
	bin     string // plyfs
	scratch string // removed at the end
	seed    uint64
	cuts    int  // of each workload on each target
	long    bool // make crash

	mu      sync.Mutex
	running map[*os.Process]bool // to be killed if the run is interrupted
}

// spawn starts a command; the channel is closed when it has ended.
func spawn(cmd *exec.Cmd) (ended chan struct{}, err error) {
	env.mu.Lock()
	defer env.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if env.running == nil {
		env.running = map[*os.Process]bool{}
	}
	env.running[cmd.Process] = true
	ended = make(chan struct{})
	go func() {
		cmd.Wait()
		env.mu.Lock()
		delete(env.running, cmd.Process)
		env.mu.Unlock()
		close(ended)
	}()
	return ended, nil
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(recorderEnv); dir != "" {
		if err := serveRecorder(dir); err != nil {
			fmt.Fprintln(os.Stderr, "recorder:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(run(m))
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
	err := setUp()
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
	removeStale(base)
	env.scratch = filepath.Join(base, fmt.Sprintf("plyfs-powercut-%d", os.Getpid()))
	if err := os.Mkdir(env.scratch, 0o755); err != nil {
		return err
	}
	// A copy, so that a build during the run changes nothing.
	env.bin = filepath.Join(env.scratch, "plyfs")
	if from := os.Getenv("PLYFS_BIN"); from != "" {
		return do("cp", from, env.bin)
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", env.bin, "../../cmd/plyfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building plyfs: %w\n%s", err, out)
	}
	return nil
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

// removeStale takes away mounts and files of a run that was killed.
func removeStale(base string) {
	old, _ := filepath.Glob(filepath.Join(base, "plyfs-powercut-*"))
	for _, dir := range old {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "plyfs-powercut-"))
		if err != nil || unix.Kill(pid, 0) == nil {
			continue
		}
		detach(dir)
		os.RemoveAll(dir)
	}
}

// detach takes away every mount below dir.
func detach(dir string) {
	for _, m := range mountsBelow(dir) {
		unix.Unmount(m, unix.MNT_FORCE|unix.MNT_DETACH)
	}
}

func cleanUp() {
	if env.scratch == "" {
		return
	}
	env.mu.Lock()
	for p := range env.running {
		p.Kill()
	}
	env.mu.Unlock()
	detach(env.scratch)
	if os.Getenv("PLYFS_KEEP") != "" {
		fmt.Fprintln(os.Stderr, "powercut: kept", env.scratch)
		return
	}
	os.RemoveAll(env.scratch)
}
