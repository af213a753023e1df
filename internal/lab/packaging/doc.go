// Package packaging tries the Debian packages and the tarball for VyOS on machines of the lab: install, configure, upgrade,
// downgrade, remove, purge. All of it stands in the tests, behind the build tag "lab".
package packaging
