module github.com/plyfs/plyfs/cmd/plyfs-key-pkcs11

go 1.26.8

require (
	github.com/miekg/pkcs11 v1.1.2
	github.com/plyfs/plyfs v0.0.0
)

replace github.com/plyfs/plyfs => ../..
