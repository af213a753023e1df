// Package identity holds end-to-end tests of who may join a site and what becomes of a machine's identity: day zero as
// docs/bootstrap.md has it, tokens, revocation, rebuilt and copied machines, wrong clocks, and cuts in the middle of an apply.
// It is tests only, in a lab of its own: go test -tags lab ./internal/lab/identity
package identity
