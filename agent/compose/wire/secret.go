package wire

import "fmt"

// SecretFile is the file of a use of a secret below the folder of a stack's secrets.
func SecretFile(s Secret) string { return fmt.Sprintf("%d-%d/%s", s.UID, s.GID, s.Name) }
