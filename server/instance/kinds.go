package instance

import "github.com/infractl/infractl/server/operation"

// Kinds are the operations on instances.
func (s *Instances) Kinds() []operation.Kind {
	return []operation.Kind{
		s.createKind(), s.suspendKind(), s.resumeKind(), s.restartKind(), s.configureKind(), s.renameKind(), s.deleteKind(), s.purgeKind(),
		s.disownKind(), s.importKind(), s.templateKind(), s.passwordsKind(),
	}
}
