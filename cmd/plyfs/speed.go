package main

import (
	"crypto/aes"
	gocipher "crypto/cipher"
	"crypto/rand"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/plyfs/plyfs/cipher"
)

// speedRow is one measurement, in bytes per second.
type speedRow struct {
	What      string  `json:"what"` // layer1, layer2: the bare algorithm; suite0, suite1: all that a block takes
	Name      string  `json:"name"`
	BlockSize int     `json:"block_size"`
	Threads   int     `json:"threads"`
	Seal      float64 `json:"seal"`
	Open      float64 `json:"open"`
}

func speedCommand(con *console) *cli.Command {
	return &cli.Command{
		Name:        "speed",
		Usage:       "measure the throughput of the layers and suites in memory",
		UsageText:   "plyfs speed [--json] [--block-size BYTES] [--time DURATION]",
		Description: "The figures are those of the encryption alone, without any disk or FUSE.",
		Flags: []cli.Flag{
			jsonFlag(),
			&cli.IntFlag{Name: "block-size", Usage: "block size in `BYTES` (default: 4096, 16384 and 65536 in turn)"},
			&cli.DurationFlag{Name: "time", Value: 200 * time.Millisecond, Usage: "`DURATION` of each measurement (default: 200ms)"},
		},
		Action: func(c *cli.Context) error {
			if _, err := places(c); err != nil {
				return err
			}
			sizes := []int{4096, 16384, 65536}
			if n := c.Int("block-size"); n != 0 {
				if _, err := cipher.NewLayout(n); err != nil {
					return usageError("", "%w", err)
				}
				sizes = []int{n}
			}
			limit := c.Duration("time")
			if limit <= 0 || limit > time.Minute {
				return usageError("--time 500ms", "a measurement takes more than nothing and at most a minute")
			}
			rows, err := speed(sizes, limit)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return con.json(rows)
			}
			printSpeed(con, rows)
			return nil
		},
	}
}

// contender seals and opens blocks on one thread.
type contender struct {
	what, name string
	seal, open func() error
}

// speed measures everything on one thread, and the suites on all cores too.
func speed(sizes []int, limit time.Duration) ([]speedRow, error) {
	var rows []speedRow
	threads := []int{1}
	if n := runtime.GOMAXPROCS(0); n > 1 {
		threads = append(threads, n)
	}
	for _, size := range sizes {
		for _, n := range threads {
			for _, make := range []func(int) (contender, error){layer1, layer2, suite(cipher.SuiteSingle), suite(cipher.SuiteDouble)} {
				row, err := race(make, size, n, limit)
				if err != nil {
					return nil, err
				}
				rows = append(rows, row)
			}
		}
	}
	return rows, nil
}

// race runs n contenders at once, each with keys and buffers of its own.
func race(make func(blockSize int) (contender, error), blockSize, n int, limit time.Duration) (speedRow, error) {
	all := []contender{}
	for range n {
		c, err := make(blockSize)
		if err != nil {
			return speedRow{}, err
		}
		all = append(all, c)
	}
	row := speedRow{What: all[0].what, Name: all[0].name, BlockSize: blockSize, Threads: n}
	for _, m := range []struct {
		into *float64
		op   func(contender) func() error
	}{
		{&row.Seal, func(c contender) func() error { return c.seal }},
		{&row.Open, func(c contender) func() error { return c.open }},
	} {
		var wg sync.WaitGroup
		rates, errs := [64]float64{}, [64]error{}
		for i, c := range all[:min(n, 64)] {
			wg.Go(func() { rates[i], errs[i] = rate(m.op(c), blockSize, limit) })
		}
		wg.Wait()
		for i := range rates {
			if errs[i] != nil {
				return row, errs[i]
			}
			*m.into += rates[i]
		}
	}
	return row, nil
}

// rate calls op for about limit, and returns bytes per second.
func rate(op func() error, blockSize int, limit time.Duration) (float64, error) {
	const batch = 16
	done := 0
	for start := time.Now(); ; {
		for range batch {
			if err := op(); err != nil {
				return 0, err
			}
		}
		done += batch
		if took := time.Since(start); took >= limit {
			return float64(done*blockSize) / took.Seconds(), nil
		}
	}
}

func layer1(blockSize int) (contender, error) {
	block, err := aes.NewCipher(random(32))
	if err != nil {
		return contender{}, err
	}
	a, err := gocipher.NewGCMWithRandomNonce(block)
	return bare1("layer1", "layer 1, AES-256-GCM", a, blockSize), err
}

func layer2(blockSize int) (contender, error) {
	a, err := chacha20poly1305.NewX(random(32))
	return bare1("layer2", "layer 2, XChaCha20-Poly1305", a, blockSize), err
}

// bare1 is an algorithm by itself: one nonce and one key for all blocks, which
// costs the same and protects nothing.
func bare1(what, name string, a gocipher.AEAD, blockSize int) contender {
	if a == nil {
		return contender{}
	}
	nonce, plain := random(a.NonceSize()), random(blockSize)
	sealed := a.Seal(nil, nonce, plain, nil)
	out := make([]byte, 0, len(sealed))
	return contender{what, name,
		func() error { a.Seal(out[:0], nonce, plain, nil); return nil },
		func() error { _, err := a.Open(out[:0], nonce, sealed, nil); return err },
	}
}

// suite is what the filesystem does to a block in a volume of this suite.
func suite(s cipher.Suite) func(int) (contender, error) {
	return func(blockSize int) (contender, error) {
		p := cipher.Params{Format: cipher.FormatVersion, Suite: s, Layers: 2, BlockSize: uint32(blockSize)}
		copy(p.VolumeID[:], random(16))
		var k cipher.Keys
		copy(k.Data[:], random(32))
		if s == cipher.SuiteSingle {
			p.Layers = 1
		} else {
			copy(k.Infra[:], random(32))
		}
		v, err := cipher.NewVolume(p, 1, k, nil)
		if err != nil {
			return contender{}, err
		}
		_, f, err := v.NewFile()
		if err != nil {
			return contender{}, err
		}
		plain, body, entry, out := random(blockSize), make([]byte, blockSize), make([]byte, cipher.EntrySize), make([]byte, blockSize)
		const index = 7
		if err := f.Seal(body, entry, plain, index); err != nil {
			return contender{}, err
		}
		scratch, scratchEntry := make([]byte, blockSize), make([]byte, cipher.EntrySize)
		return contender{fmt.Sprintf("suite%d", s), fmt.Sprintf("suite %d (%s), a block in full", s, s),
			func() error { return f.Seal(scratch, scratchEntry, plain, index) },
			func() error { return f.Open(out, body, entry, index) },
		}, nil
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func printSpeed(con *console, rows []speedRow) {
	size, threads := 0, 0
	for _, r := range rows {
		if r.BlockSize != size || r.Threads != threads {
			if size != 0 {
				con.print("\n")
			}
			size, threads = r.BlockSize, r.Threads
			con.print("blocks of %d bytes, %s\n   %-34s %9s %9s\n", size, threadsText(threads), "", "seal", "open")
		}
		con.print("   %-34s %9s %9s\n", r.Name, gigabytes(r.Seal), gigabytes(r.Open))
	}
	f := fipsOf()
	con.print("\nFIPS: %s\n", f.text())
}

func threadsText(n int) string {
	if n == 1 {
		return "one thread"
	}
	return fmt.Sprintf("%d threads", n)
}

func gigabytes(rate float64) string { return fmt.Sprintf("%.2f GB/s", rate/1e9) }
