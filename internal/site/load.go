package site

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// maxErrors is how many errors Load reports.
const maxErrors = 50

// Load parses and validates a site. The site is nil when any finding has severity ERROR. Findings are errors first, then
// warnings, then information; all faults are reported at once, 50 errors at most. It never panics on any content.
func Load(src Source) (*Site, []*v1.Finding) {
	l := &loader{src: src, site: &Site{}, overlaid: map[string]yamltree.Pos{}}
	l.read()
	if l.failed() {
		// Names and references are still worth a look, as long as there is a file to look at.
		if l.pos == nil {
			return nil, l.report()
		}
	}
	l.validate()
	if l.failed() {
		return nil, l.report()
	}
	return l.site, l.report()
}

type finding struct {
	severity      v1.Severity
	overlay       bool
	file          string // another file than the site file and the overlay; empty for those
	pos           yamltree.Pos
	message, hint string
}

type loader struct {
	src      Source
	file     sitefile.File
	pos      *yamltree.Positions
	overlay  sitefile.Overlay
	opos     *yamltree.Positions
	overlaid map[string]yamltree.Pos // paths of the site whose value comes from the overlay
	site     *Site
	findings []finding
}

// read parses both files and lets the overlay change the first.
func (l *loader) read() {
	root, faults := yamltree.Parse(l.src.Content)
	l.faults(false, faults)
	if root != nil && root.Kind == yamltree.Null && len(faults) == 0 {
		l.add(finding{severity: v1.Severity_SEVERITY_ERROR, pos: root.Pos, message: "the file is empty"})
	} else if root != nil && root.Kind != yamltree.Null {
		l.pos, faults = yamltree.Decode(root, &l.file, yamltree.Options{})
		l.faults(false, faults)
	}
	if !l.src.hasOverlay() {
		return
	}
	root, faults = yamltree.Parse(l.src.OverlayContent)
	l.faults(true, faults)
	if root == nil || root.Kind == yamltree.Null {
		return
	}
	l.opos, faults = yamltree.Decode(root, &l.overlay, yamltree.Options{UnknownHint: overlayHint})
	l.faults(true, faults)
	if l.pos != nil {
		l.applyOverlay()
	}
}

func (l *loader) faults(overlay bool, faults []yamltree.Fault) {
	for _, f := range faults {
		l.add(finding{severity: v1.Severity_SEVERITY_ERROR, overlay: overlay, pos: f.Pos, message: f.Message, hint: f.Hint})
	}
}

func (l *loader) add(f finding) { l.findings = append(l.findings, f) }

func (l *loader) failed() bool {
	return slices.ContainsFunc(l.findings, func(f finding) bool { return f.severity == v1.Severity_SEVERITY_ERROR })
}

// place finds where the value of a path of the site stands, in the overlay if that has set it.
func (l *loader) place(path string, key bool) (overlay bool, pos yamltree.Pos) {
	for p := path; ; {
		if pos, ok := l.overlaid[p]; ok {
			if l.opos != nil && l.opos.Has(path) {
				return true, l.opos.Value(path)
			}
			return true, pos
		}
		i := strings.LastIndexByte(p, '/')
		if i < 0 {
			break
		}
		p = p[:i]
	}
	if key {
		return false, l.pos.Key(path)
	}
	return false, l.pos.Value(path)
}

// where is the place of a value of the site as people read it.
func (l *loader) where(path string) string {
	overlay, pos := l.place(path, false)
	return l.text(overlay, pos)
}

// at is where a finding is, as people read it.
func (l *loader) at(f finding) string {
	if f.file != "" {
		return fmt.Sprintf("%s:%d:%d", f.file, f.pos.Line, f.pos.Column)
	}
	return l.text(f.overlay, f.pos)
}

func (l *loader) text(overlay bool, pos yamltree.Pos) string {
	file := l.src.File
	if overlay {
		file = l.src.OverlayFile
	}
	return fmt.Sprintf("%s:%d:%d", file, pos.Line, pos.Column)
}

// fail reports an error at the value of a path; failKey at its key.
func (l *loader) fail(path, hint, format string, args ...any) {
	overlay, pos := l.place(path, false)
	l.add(finding{severity: v1.Severity_SEVERITY_ERROR, overlay: overlay, pos: pos, message: fmt.Sprintf(format, args...), hint: hint})
}

func (l *loader) failKey(path, hint, format string, args ...any) {
	overlay, pos := l.place(path, true)
	l.add(finding{severity: v1.Severity_SEVERITY_ERROR, overlay: overlay, pos: pos, message: fmt.Sprintf(format, args...), hint: hint})
}

func (l *loader) warn(path, hint, format string, args ...any) {
	overlay, pos := l.place(path, false)
	l.add(finding{severity: v1.Severity_SEVERITY_WARNING, overlay: overlay, pos: pos, message: fmt.Sprintf(format, args...), hint: hint})
}

func (l *loader) info(path, format string, args ...any) {
	overlay, pos := l.place(path, true)
	l.add(finding{severity: v1.Severity_SEVERITY_INFO, overlay: overlay, pos: pos, message: fmt.Sprintf(format, args...), hint: ""})
}

// report sorts the findings and limits the errors.
func (l *loader) report() []*v1.Finding {
	slices.SortStableFunc(l.findings, func(a, b finding) int {
		return cmp.Or(
			-cmp.Compare(a.severity, b.severity),
			cmp.Compare(number(a.overlay), number(b.overlay)),
			cmp.Compare(a.file, b.file),
			cmp.Compare(a.pos.Line, b.pos.Line),
			cmp.Compare(a.pos.Column, b.pos.Column),
		)
	})
	l.findings = slices.CompactFunc(l.findings, func(a, b finding) bool { return a == b })
	var out []*v1.Finding
	errors := 0
	for _, f := range l.findings {
		if f.severity == v1.Severity_SEVERITY_ERROR {
			if errors++; errors > maxErrors {
				continue
			}
		}
		out = append(out, &v1.Finding{
			Severity: f.severity, Where: l.at(f), Message: f.message, Hint: f.hint,
		})
	}
	if errors > maxErrors {
		out = slices.Insert(out, maxErrors, &v1.Finding{
			Severity: v1.Severity_SEVERITY_ERROR, Where: l.src.File,
			Message: fmt.Sprintf("and %d more errors", errors-maxErrors), Hint: "correct these first",
		})
	}
	return out
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
