package hostspec

import (
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestPhaseHashCoversWhatItsCommitTouches(t *testing.T) {
	spec := func() *v1.HostSpec {
		return &v1.HostSpec{Site: "projetpro", Node: "web",
			System: &v1.SystemSpec{Hostname: "web", Sysctls: map[string]string{"net.ipv4.ip_forward": "0", "vm.swappiness": "10"}},
			Sshd:   &v1.SshdSpec{}, Firewall: &v1.FirewallSpec{}, Accounts: &v1.AccountsSpec{}}
	}
	const additions, widening, narrowing = v1.Phase_PHASE_ADDITIONS, v1.Phase_PHASE_WIDENING, v1.Phase_PHASE_NARROWING
	tests := map[string]struct {
		change func(*v1.HostSpec)
		want   map[v1.Phase]bool // whose hash differs
	}{
		"Nothing":          {func(*v1.HostSpec) {}, nil},
		"NetSetting":       {func(s *v1.HostSpec) { s.System.Sysctls["net.ipv4.ip_forward"] = "1" }, map[v1.Phase]bool{additions: true, widening: true}},
		"NetSettingSlash":  {func(s *v1.HostSpec) { s.System.Sysctls["net/ipv4/tcp_syncookies"] = "1" }, map[v1.Phase]bool{additions: true, widening: true}},
		"NetSettingIsGone": {func(s *v1.HostSpec) { delete(s.System.Sysctls, "net.ipv4.ip_forward") }, map[v1.Phase]bool{additions: true, widening: true}},
		"OtherSetting":     {func(s *v1.HostSpec) { s.System.Sysctls["vm.swappiness"] = "20" }, map[v1.Phase]bool{additions: true}},
		"NameOfHost":       {func(s *v1.HostSpec) { s.System.Hostname = "www" }, map[v1.Phase]bool{additions: true}},
		"Accounts": {func(s *v1.HostSpec) { s.Accounts.Accounts = []*v1.Account{{Name: "anna"}} },
			map[v1.Phase]bool{additions: true, narrowing: true}},
		"OtherNode": {func(s *v1.HostSpec) { s.Node = "db" }, map[v1.Phase]bool{additions: true, widening: true, narrowing: true}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before, after := spec(), proto.CloneOf(spec())
			tt.change(after)
			for _, phase := range []v1.Phase{additions, widening, narrowing} {
				if got := PhaseHash(before, phase) != PhaseHash(after, phase); got != tt.want[phase] {
					t.Errorf("%s: hash differs: %t, want %t", phase, got, tt.want[phase])
				}
			}
		})
	}
}
