package blockfile

import (
	"runtime"
	"sync"
)

const (
	parallelFrom = 128 << 10 // bytes of a request from which its crypto is split
	parallelPart = 64 << 10  // least bytes for each goroutine
)

// spread runs work over the blocks 0 to n-1 of blockSize bytes, on several
// cores where there is enough to do. It returns the error of the lowest block
// range that failed.
func spread(n, blockSize int, work func(from, to int) error) error {
	workers := 1
	if n*blockSize >= parallelFrom {
		workers = min(runtime.GOMAXPROCS(0), n*blockSize/parallelPart, n)
	}
	if workers <= 1 {
		return work(0, n)
	}
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := 1; w < workers; w++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[w] = work(w*n/workers, (w+1)*n/workers)
		}()
	}
	errs[0] = work(0, n/workers)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
