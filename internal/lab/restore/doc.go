// Package restore tries in the lab that the server's machine can be lost: it is rebuilt from a backup and the recovery key
// alone. Its tests have the build tag lab.
package restore
