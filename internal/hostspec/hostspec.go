// Package hostspec encodes, digests and strictly decodes host specs, the same way on server and agent.
package hostspec

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// MaxBytes is the greatest size of a serialised spec.
const MaxBytes = 1 << 20

// Encode returns the spec's bytes and their digest. The digest is about these bytes: they travel and are stored as made.
func Encode(spec *v1.HostSpec) (content []byte, digest string, err error) {
	content, err = proto.MarshalOptions{Deterministic: true}.Marshal(spec)
	if err != nil {
		return nil, "", errs.Wrap("encode host spec", err)
	}
	return content, Digest(content), nil
}

// Digest returns the digest of serialised bytes: "sha256:" and 64 hexadecimal digits.
func Digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Decode reads a spec and refuses a wrong digest, an unknown field at any depth, and too much of anything. An unknown field
// means that the server wants something that this agent cannot do: half a wish is worse than none.
func Decode(content []byte, digest string) (*v1.HostSpec, error) {
	if len(content) > MaxBytes {
		return nil, errs.New(errs.Invalid, "host spec has %d bytes, more than %d", len(content), MaxBytes)
	}
	if got := Digest(content); got != digest {
		return nil, errs.New(errs.Invalid, "host spec has digest %s, not %s", got, digest)
	}
	spec := &v1.HostSpec{}
	if err := proto.Unmarshal(content, spec); err != nil {
		return nil, errs.New(errs.Invalid, "host spec does not parse: %w", err)
	}
	if name := unknownIn(spec.ProtoReflect()); name != "" {
		return nil, errs.New(errs.Invalid, "host spec has a field in %s that this version does not know", name).
			WithHint("upgrade the agent of this host to the server's version")
	}
	return spec, nil
}

func unknownIn(m protoreflect.Message) string {
	if len(m.GetUnknown()) > 0 {
		return string(m.Descriptor().FullName())
	}
	found := ""
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil || fd.IsMap():
		case fd.IsList():
			for i := 0; i < v.List().Len() && found == ""; i++ {
				found = unknownIn(v.List().Get(i).Message())
			}
		default:
			found = unknownIn(v.Message())
		}
		return found == ""
	})
	return found
}

// PhaseHash identifies what a phase would put on a host, so that content that failed is not tried again even when an
// unrelated part of the site changes. It covers only the sections that the phase's commit touches.
func PhaseHash(spec *v1.HostSpec, phase v1.Phase) string {
	part := &v1.HostSpec{Site: spec.GetSite(), Node: spec.GetNode()}
	switch phase {
	case v1.Phase_PHASE_WIDENING, v1.Phase_PHASE_NARROWING:
		part.Firewall, part.Sshd = spec.GetFirewall(), spec.GetSshd()
		if phase == v1.Phase_PHASE_NARROWING {
			part.Accounts = spec.GetAccounts()
		} else {
			part.System = netSettings(spec.GetSystem())
		}
	default:
		part.System, part.Time, part.Accounts = spec.GetSystem(), spec.GetTime(), spec.GetAccounts()
	}
	content, _, err := Encode(part)
	if err != nil {
		// Marshalling a message that was just decoded cannot fail; a constant would merge unrelated contents.
		return fmt.Sprintf("unhashable:%s:%v", spec.GetNode(), err)
	}
	return Digest(append([]byte(phase.String()+"\n"), content...))
}

// netSettings returns the kernel settings below net., which alone of the system section belong to the widening commit; nil
// without any.
func netSettings(system *v1.SystemSpec) *v1.SystemSpec {
	var net map[string]string
	for key, value := range system.GetSysctls() {
		if !strings.HasPrefix(key, "net.") && !strings.HasPrefix(key, "net/") {
			continue
		}
		if net == nil {
			net = map[string]string{}
		}
		net[key] = value
	}
	if net == nil {
		return nil
	}
	return &v1.SystemSpec{Sysctls: net}
}
