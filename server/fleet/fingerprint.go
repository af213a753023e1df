package fleet

import (
	"slices"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Limits of a fingerprint.
const (
	maxFingerprintText = 128
	maxMACs            = 64
)

// CheckFingerprint returns Invalid unless fp is within limits; nil is an empty fingerprint.
func CheckFingerprint(fp *v1.HostFingerprint) error {
	bad := len(fp.GetMachineId()) > maxFingerprintText || len(fp.GetProductSerial()) > maxFingerprintText ||
		len(fp.GetMacAddresses()) > maxMACs
	for _, mac := range fp.GetMacAddresses() {
		bad = bad || len(mac) > maxFingerprintText
	}
	if bad {
		return errs.New(errs.Invalid, "the host fingerprint exceeds its limits")
	}
	return nil
}

// SameMachine reports whether two fingerprints can belong to one machine. What one of them does not know decides nothing.
// Of the addresses of network cards one in common is enough, since a card may be replaced; none in common is another
// machine: a cloned virtual machine keeps its disk, and with it the machine id, but gets new cards.
func SameMachine(a, b *v1.HostFingerprint) bool {
	differ := func(x, y string) bool { return x != "" && y != "" && x != y }
	if differ(a.GetMachineId(), b.GetMachineId()) || differ(a.GetProductSerial(), b.GetProductSerial()) {
		return false
	}
	if len(a.GetMacAddresses()) == 0 || len(b.GetMacAddresses()) == 0 {
		return true
	}
	return slices.ContainsFunc(a.GetMacAddresses(), func(mac string) bool {
		return slices.Contains(b.GetMacAddresses(), mac)
	})
}
