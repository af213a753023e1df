// Package packages tries the agent's packages provider on a real apt: a machine of the lab without a network, with a repository
// of a few packages that the tests make. All of it stands in the tests, behind the build tag "lab".
package packages
