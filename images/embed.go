// Package images carries the build contexts of the images that instances run on inside the program that builds them.
package images

import (
	"embed"
	"io/fs"
	"path"
)

// FS holds one folder per image, each with a Dockerfile: dolibarr, mariadb and front. They build on any Debian that has the packages,
// named by the build argument BASE.
//
//go:embed all:dolibarr all:mariadb all:front
var FS embed.FS

//go:embed dolibarr/rootfs
var web embed.FS

// Web are the files that make a web server of Apache and PHP as Debian lays them out, by their names: infractl.conf, php.ini, php-web.ini
// and infractl-healthcheck. They are in our image of Dolibarr, and agents mount them, so that another image runs the same way.
func Web() map[string][]byte {
	out := map[string][]byte{}
	err := fs.WalkDir(web, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		out[path.Base(name)], err = web.ReadFile(name)
		return err
	})
	if err != nil {
		panic(err) // the files are compiled in
	}
	return out
}
