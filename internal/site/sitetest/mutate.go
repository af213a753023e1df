package sitetest

import (
	"math/rand/v2"

	"pgregory.net/rapid"

	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/site/sitefile"
)

// Chooser draws numbers from 0 to n-1. A *rand.Rand of math/rand/v2 is one.
type Chooser interface{ IntN(n int) int }

// FromRapid returns a Chooser whose choices rapid shrinks.
func FromRapid(t *rapid.T) Chooser { return rapidChooser{t} }

type rapidChooser struct{ t *rapid.T }

func (c rapidChooser) IntN(n int) int { return rapid.IntRange(0, n-1).Draw(c.t, "choice") }

// Seeded returns a Chooser that makes the same choices for the same seed.
func Seeded(seed uint64) Chooser { return rand.New(rand.NewPCG(seed, seed)) }

// Options say which edits are wanted.
type Options struct {
	// Edits is the number of edits to try; 0 means 5. Those that Load refuses are taken back, so fewer may remain.
	Edits int
	// KeepMachines leaves machines, addresses and networks as they are, so that an existing lab still fits the site.
	KeepMachines bool
}

// Mutate returns the site file of src after some random edits: ones that a careless person could make, valid, and hostile to
// whoever has to apply them without locking anybody out. Load accepts the result, with the overlay of src if it has one.
// The server section never changes: an apply refuses that. src itself must be valid.
func Mutate(c Chooser, src site.Source, opt Options) []byte {
	if opt.Edits == 0 {
		opt.Edits = 5
	}
	list := edits()
	if !opt.KeepMachines {
		list = append(list, machineEdits()...)
	}
	content := src.Content
	for range opt.Edits {
		f, err := Decode(content)
		if err != nil {
			return content
		}
		e := editor{Chooser: c, file: f}
		list[c.IntN(len(list))](&e)
		next := src
		next.Content = Encode(f)
		if s, _ := site.Load(next); s != nil {
			content = next.Content
		}
	}
	return content
}

// editor is one edit at work.
type editor struct {
	Chooser
	file *sitefile.File
}

// chance is true once in n times.
func (e *editor) chance(n int) bool { return e.IntN(n) == 0 }

func pick[T any](e *editor, list []T) T { return list[e.IntN(len(list))] }
