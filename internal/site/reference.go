package site

import "github.com/infractl/infractl/internal/site/sitefile"

// JSONSchema returns the JSON schema of a site file, for editors: the shape, not the meaning.
func JSONSchema() ([]byte, error) { return sitefile.JSONSchema() }

// OverlayJSONSchema returns the JSON schema of a lab overlay.
func OverlayJSONSchema() ([]byte, error) { return sitefile.OverlayJSONSchema() }

// Reference returns the reference manual of site files and overlays as Markdown: docs/site.md. It is made of the embedded
// source of the vocabulary, which was compiled too, so it cannot fail; nil would mean that it did.
func Reference() []byte {
	out, err := sitefile.Reference()
	if err != nil {
		return nil
	}
	return out
}
