// Package images carries the build contexts of the images that instances run on inside the program that builds them.
package images

import "embed"

// FS holds one folder per image, each with a Dockerfile: dolibarr, mariadb and front. They build on any Debian that has the packages,
// named by the build argument BASE.
//
//go:embed all:dolibarr all:mariadb all:front
var FS embed.FS
