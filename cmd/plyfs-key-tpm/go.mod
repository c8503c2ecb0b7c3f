module github.com/plyfs/plyfs/cmd/plyfs-key-tpm

go 1.26.8

require (
	github.com/google/go-tpm v0.9.8
	github.com/plyfs/plyfs v0.0.0
)

require golang.org/x/sys v0.50.0 // indirect

replace github.com/plyfs/plyfs => ../..
