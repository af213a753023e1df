package instance

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/site"
)

// concerns reports whether a line of what a node complains of is about an instance. Nodes say "dolibarr: instance NAME: ...", "proxy:
// DOMAIN: ..." and the like; a complaint of these parts that names no instance at all is about all of them.
func concerns(domains func(*site.Instance) []string, line string, rec *record, all []record) bool {
	part, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "plan "), ":")
	if names(line, rec, domains) {
		own := *rec
		own.Domains = nil // those that its customer points here may be refused: who asks for them is told
		return part != "proxy" || names(line, &own, domains)
	}
	switch part {
	case "dolibarr", "proxy", "dns":
	default:
		return false
	}
	return !slices.ContainsFunc(all, func(other record) bool { return other.ID != rec.ID && names(line, &other, domains) })
}

// names reports whether a line names an instance by its name, id or one of its domains.
func names(line string, rec *record, domains func(*site.Instance) []string) bool {
	r := rec.resource()
	for _, word := range append(domains(&r), "instance "+rec.Name) {
		if hasWord(line, word) {
			return true
		}
	}
	return strings.Contains(line, rec.ID) // as a part of the names of containers and volumes
}

var wordRune = regexp.MustCompile(`^[A-Za-z0-9_.-]$`)

// hasWord reports whether a text holds a word, and not as a part of a longer one.
func hasWord(text, word string) bool {
	if word == "" {
		return false
	}
	for at := 0; ; {
		i := strings.Index(text[at:], word)
		if i < 0 {
			return false
		}
		i += at
		end := i + len(word)
		goesOn := func(at int) bool { return at >= 0 && at < len(text) && wordRune.MatchString(text[at:at+1]) }
		// A full stop behind a word ends the sentence.
		if !goesOn(i-1) && (!goesOn(end) || text[end] == '.' && !goesOn(end+1)) {
			return true
		}
		at = i + 1
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
