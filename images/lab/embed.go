// Package labimages carries the build contexts of the lab's images inside the binary, so that the lab needs no source tree.
package labimages

import "embed"

// FS holds one folder per image, each with a Dockerfile.
//
//go:embed all:vm all:busybox all:stacks all:official
var FS embed.FS
