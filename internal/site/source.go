package site

import (
	"slices"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Source is a site file, with an overlay where there is one.
type Source struct {
	// File is the site file's name, for messages.
	File string
	// Content is the site file.
	Content []byte
	// OverlayFile is the overlay's name, for messages; empty without one.
	OverlayFile string
	// OverlayContent is the overlay.
	OverlayContent []byte
	// Present says whether a path that the site file names exists beside it; nil: files are not looked for.
	Present func(path string) bool
	// Site is the name that the site must have, which its certificates carry; empty: any.
	Site string
}

// SourceFromProto returns the source that a message carries.
func SourceFromProto(m *v1.SiteSource) Source {
	present := slices.Clone(m.GetPresentFiles())
	return Source{
		File: m.GetFile(), Content: m.GetContent(),
		OverlayFile: m.GetOverlayFile(), OverlayContent: m.GetOverlayContent(),
		Present: func(path string) bool { return slices.Contains(present, path) },
	}
}

// hasOverlay reports whether there is an overlay; an empty file with a name is one that changes nothing.
func (s Source) hasOverlay() bool { return s.OverlayFile != "" || len(s.OverlayContent) > 0 }
