// Package operators holds end-to-end tests of people: login codes, roles, logins by SSH with certificates of minutes and with
// keys of one's own, and what the audit log has of them. It is tests only, in a lab of its own:
// go test -tags lab ./internal/lab/operators
package operators
