// Package hygiene holds tests about the tree itself: who may import whom, what every package must have.
package hygiene
