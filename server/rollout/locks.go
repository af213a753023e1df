package rollout

import "slices"

// locks say who commits and who must be at rest for it. A node and its witnesses are taken in one step or not at all, so
// that no two commits can wait for each other. They are derived from the commits under way and live in memory only.
type locks struct {
	exclusive map[string]bool
	shared    map[string]int
	// critical is the one critical node that changes now.
	critical string
}

func newLocks() *locks { return &locks{exclusive: map[string]bool{}, shared: map[string]int{}} }

// atRest reports whether a node may be a witness now.
func (l *locks) atRest(node string) bool { return !l.exclusive[node] }

// mayChange reports whether a node may begin now, apart from its witnesses, and if not, because of whom.
func (l *locks) mayChange(node string, critical bool) (because string, ok bool) {
	switch {
	case l.exclusive[node]:
		return node, false
	case l.shared[node] > 0:
		return "a commit that it is a witness of", false
	case critical && l.critical != "":
		return l.critical, false
	}
	return "", true
}

// take takes node and witnesses, or nothing.
func (l *locks) take(node string, witnesses []string, critical bool) bool {
	if _, ok := l.mayChange(node, critical); !ok || slices.ContainsFunc(witnesses, func(w string) bool { return w == node || l.exclusive[w] }) {
		return false
	}
	l.force(node, witnesses, critical)
	return true
}

// force takes node and witnesses for a commit that is under way already.
func (l *locks) force(node string, witnesses []string, critical bool) {
	l.exclusive[node] = true
	for _, w := range witnesses {
		l.shared[w]++
	}
	if critical {
		l.critical = node
	}
}

func (l *locks) free(node string, witnesses []string) {
	delete(l.exclusive, node)
	for _, w := range witnesses {
		if l.shared[w]--; l.shared[w] <= 0 {
			delete(l.shared, w)
		}
	}
	if l.critical == node {
		l.critical = ""
	}
}
