package certs

import "sync"

// RevocationList is the set of revoked serial numbers that a server holds in memory; the store is where it is kept. The
// zero value is empty and ready. Its methods may be called from many goroutines.
type RevocationList struct {
	mu      sync.RWMutex
	serials map[string]struct{}
}

// Add revokes serials, as SerialHex writes them.
func (l *RevocationList) Add(serials ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.serials == nil {
		l.serials = make(map[string]struct{})
	}
	for _, s := range serials {
		l.serials[s] = struct{}{}
	}
}

// Replace makes the list hold exactly serials, as a reload from the store does.
func (l *RevocationList) Replace(serials []string) {
	fresh := make(map[string]struct{}, len(serials))
	for _, s := range serials {
		fresh[s] = struct{}{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serials = fresh
}

// IsRevoked reports whether serial was revoked.
func (l *RevocationList) IsRevoked(serial string) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	_, ok := l.serials[serial]
	return ok
}

// Len returns how many serial numbers are revoked.
func (l *RevocationList) Len() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.serials)
}
