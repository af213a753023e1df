// Package rollouts holds end-to-end tests of steering rollouts: pause, a restart of the server, resume, soak, retry.
// It is tests only, in a lab of its own: go test -tags lab ./internal/lab/rollouts
package rollouts
