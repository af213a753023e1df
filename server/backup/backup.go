// Package backup saves the server and puts it back.
//
// A backup is one file: a tar in an age envelope that only the recovery key opens. It holds a consistent copy of the database,
// the settings, and the keys; its last entry is the manifest, with a digest of every other. A file without a manifest is no
// backup. Writing and reading go through it once and keep nothing of it in memory.
package backup

import (
	"time"

	v1 "github.com/infractl/infractl/proto/infractl/v1"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// Format is the number of the file's format.
const Format = 1

// The names inside the file.
const (
	manifestName = "manifest.json"
	dataPrefix   = "data/"
	keysPrefix   = "keys/"
	databaseName = dataPrefix + storeFolder + "/" + databaseFile
)

// The names in the server's folders that are not copied as they are.
const (
	storeFolder  = "store"        // in the data folder: copied by the store itself
	databaseFile = "infractl.db"  // in storeFolder
	imagesFolder = "images"       // in the data folder: image archives, large and found again elsewhere
	codesFolder  = "admin-codes"  // in the key folder: they live a day and are made anew
	recipientKey = "recovery.pub" // in the key folder: the recovery key's public half
	storeKeyFile = "store.key"    // in the key folder, unless it lies elsewhere
)

// Limits of what is read from a backup, which somebody else may have made: its key is public.
const (
	maxManifest = 16 << 20
	maxParts    = 100000
	maxName     = 512
)

// Manifest says what a backup holds.
type Manifest struct {
	Format int `json:"format"`
	// ID names the backup.
	ID string `json:"id"`
	// Version is that of the infractl-server that made it.
	Version string `json:"version"`
	Site    string `json:"site"`
	// Fingerprint is that of the site's root certificate.
	Fingerprint string `json:"fingerprint"`
	// Made is when, by the server's clock.
	Made time.Time `json:"made"`
	// SiteRevision and ResourceRevision are the newest in it.
	SiteRevision     uint64 `json:"site_revision"`
	ResourceRevision uint64 `json:"resource_revision"`
	// AuditLast is the number of the last audit entry in it, AuditHash its hash, AuditTime its time.
	AuditLast int64     `json:"audit_last"`
	AuditHash string    `json:"audit_hash"`
	AuditTime time.Time `json:"audit_time"`
	// Nodes, Operators and Revoked count the identities in it, and the keys that were withdrawn.
	Nodes     int `json:"nodes"`
	Operators int `json:"operators"`
	Revoked   int `json:"revoked"`
	// Parts are the files in it, in their order.
	Parts []Part `json:"parts"`
	// Left are the image archives that are not in it.
	Left []Part `json:"left,omitempty"`
}

// Part is one file.
type Part struct {
	// Name is its path: "data/..." or "keys/...".
	Name string `json:"name"`
	// Size is in bytes.
	Size int64 `json:"size"`
	// SHA256 is its digest in hexadecimal; empty for an image archive that was left out, whose name is its digest.
	SHA256 string `json:"sha256,omitempty"`
}

// Size returns the size of all files in bytes.
func (m *Manifest) Size() int64 {
	var sum int64
	for _, p := range m.Parts {
		sum += p.Size
	}
	return sum
}

// Summary returns what people are told of a backup.
func (m *Manifest) Summary() *v1.BackupSummary {
	return &v1.BackupSummary{Id: m.ID, Site: m.Site, Made: timestamppb.New(m.Made), SiteRevision: m.SiteRevision,
		Nodes: uint32(m.Nodes), Files: uint32(len(m.Parts)), Size: uint64(m.Size()), ImagesLeft: uint32(len(m.Left))}
}
