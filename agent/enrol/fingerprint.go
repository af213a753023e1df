package enrol

import (
	"errors"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// SerialVariable overrides the product serial number: machines of a lab share the one of their host.
const SerialVariable = "INFRACTL_PRODUCT_SERIAL"

// MachineIDVariable overrides the machine's id: a lab's probe may run on a machine that has none, as containers don't.
const MachineIDVariable = "INFRACTL_MACHINE_ID"

// ReadFingerprint reads what identifies the machine. While the machine has no id yet (early at first boot) the error is
// Precondition: without it, a clone could not be told from its original.
func ReadFingerprint(h *host.Host, getenv func(string) string) (*v1.HostFingerprint, error) {
	id := getenv(MachineIDVariable)
	if id == "" {
		data, err := h.ReadFile("/etc/machine-id")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errs.Wrap("read machine-id", err)
		}
		id = strings.TrimSpace(string(data))
	}
	if ok, _ := regexp.MatchString(`^[0-9a-f]{32}$`, id); !ok {
		return nil, errs.New(errs.Precondition, "the machine has no id yet").At("/etc/machine-id").
			WithHint("make one with: systemd-machine-id-setup")
	}
	f := &v1.HostFingerprint{MachineId: id, ProductSerial: getenv(SerialVariable)}
	if f.ProductSerial == "" {
		// Absent in containers, and not readable everywhere: the machine's id stands alone then.
		if serial, err := h.ReadFile("/sys/class/dmi/id/product_serial"); err == nil {
			f.ProductSerial = cut(strings.TrimSpace(string(serial)), 128)
		}
	}
	// Only an interface with a device behind it is physical; bridges and veths come and go.
	devices, err := h.Glob("/sys/class/net/*/device")
	if err != nil {
		return nil, errs.Wrap("list network interfaces", err)
	}
	for _, device := range devices {
		mac, err := h.ReadFile(path.Dir(device) + "/address")
		text := strings.TrimSpace(string(mac))
		if err != nil || text == "" || text == "00:00:00:00:00:00" {
			continue
		}
		f.MacAddresses = append(f.MacAddresses, cut(text, 64))
	}
	slices.Sort(f.MacAddresses)
	f.MacAddresses = slices.Compact(f.MacAddresses)
	return f, nil
}

func cut(text string, limit int) string { return text[:min(len(text), limit)] }

// difference says why present is another machine than stored, or returns "". Other MAC addresses alone mean a changed
// network card; a serial that is missing on one side means noise at early boot.
func difference(stored, present *v1.HostFingerprint) string {
	if stored.GetMachineId() != present.GetMachineId() {
		return "another machine-id"
	}
	a, b := stored.GetProductSerial(), present.GetProductSerial()
	if a != "" && b != "" && a != b {
		return "another product serial"
	}
	return ""
}
