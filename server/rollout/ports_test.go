package rollout

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestSSHPorts(t *testing.T) {
	const widen, narrow = v1.Pass_PASS_WIDEN, v1.Pass_PASS_NARROW
	cases := map[string]struct {
		listening []uint32
		wanted    uint32
		pass      v1.Pass
		settled   bool
		want      []uint32
	}{
		"WideningProvesTheOldWay":            {[]uint32{22}, 202, widen, true, []uint32{22}},
		"WideningANewNodeAlsoTakesTheNewWay": {[]uint32{22}, 202, widen, false, []uint32{22, 202}},
		"WideningWithoutAMove":               {[]uint32{202}, 202, widen, true, []uint32{202}},
		"NarrowingProvesTheNewWay":           {[]uint32{22, 202}, 202, narrow, true, []uint32{202}},
		"NotManaged":                         {[]uint32{2222}, 0, narrow, true, []uint32{2222}},
		"NothingKnown":                       {nil, 0, widen, false, []uint32{22}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := sshPorts(c.listening, c.wanted, c.pass, c.settled)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
