package site

// Wave is one step of a rollout.
type Wave struct {
	// Number starts with 1.
	Number int
	// Nodes are its nodes.
	Nodes []string
	// MaxUnavailable is how many of them change at once.
	MaxUnavailable int
	// Reason says why they stand together.
	Reason string
}

// Waves returns the order in which nodes change; only limits it to some nodes, nil means all.
func (s *Site) Waves(only []string) []Wave { return nil }
