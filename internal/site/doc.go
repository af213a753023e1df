// Package site reads a site file, with a lab overlay where there is one, and derives from it all that hosts must be.
//
// Load parses and validates: it reports every fault at once, each with file, line and column. What it returns is complete
// and consistent, so the derivations cannot fail on it: Flows is the matrix of who may talk to whom, HostSpecs the wish for
// each host, Waves the order of a rollout, Witnesses who must prove that a node is still reachable.
package site
