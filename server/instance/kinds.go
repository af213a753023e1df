package instance

import "github.com/infractl/infractl/server/operation"

// Kinds are the operations on instances.
func (s *Instances) Kinds() []operation.Kind {
	return []operation.Kind{s.createKind()}
}
