package sitefile

import (
	"encoding"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDurationsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Duration(time.Duration(rapid.Int64Range(1, 4000*24*3600).Draw(t, "seconds")) * time.Second)
		var got Duration
		if err := got.UnmarshalText([]byte(want.String())); err != nil || got != want {
			t.Fatalf("%s reads back as %s: %v", want, got, err)
		}
	})
}

func TestScalarsRefuse(t *testing.T) {
	tests := map[string]struct {
		into encoding.TextUnmarshaler
		bad  []string
	}{
		"address":  {new(Addr), []string{"", "10.0.0.1/8", "fe80::1%eth0", "::ffff:10.0.0.1", "010.0.0.1", "10.0.0"}},
		"network":  {new(Prefix), []string{"", "10.0.0.0", "10.0.0.1/8", "::ffff:10.0.0.0/104", "10.0.0.0/33"}},
		"port":     {new(Port), []string{"", "0", "65536", "-1", "+1", "080", "1.0", "0x10", "ssh"}},
		"ports":    {new(PortSpec), []string{"", "80", "80/sctp", "80/tcp/udp", "2-1/tcp", "1-/tcp", "-1/tcp", "SSH", "0-5/tcp", "80-90-100/tcp"}},
		"duration": {new(Duration), []string{"", "30", "-1s", "0s", "d", "1w", "99999999d", "1.5d"}},
		"size":     {new(Size), []string{"", "512", "0M", "-1M", "M", "99999999999G"}},
		"domain":   {new(DomainName), []string{"", "lab", "a..b", "-a.b", "a.b-", "A.b", "a.1", "a_b.c", "a.b."}},
		"ntp":      {new(NTPServer), []string{"", "10.0.0", "10.0.0.300", "a b", "a_b.c", "fe80::1%x"}},
		"key":      {new(SSHKey), []string{"", "ssh-ed25519", "no-pty ssh-ed25519 AAAA", "ssh-dss AAAAB3NzaC1kc3M="}},
		"path":     {new(RelPath), []string{"", "/etc/passwd", "..", "../a", "a/../../b", "a//b", "./a", "a\\b", "a\nb"}},
		"hostport": {new(HostPort), []string{"", "a", "a:", ":80", "a:0", "a:70000", "a b:80"}},
		"email":    {new(Email), []string{"", "a", "A <a@b.c>", "a@b.c, d@e.f"}},
		"url":      {new(URL), []string{"", "http://a", "https://", "https://u:p@a/", "ftp://a"}},
		"schedule": {new(Schedule), []string{"", "daily", "daily at 24:00", "daily at 2:00", "weekly on Sunday at 02:00"}},
		"window":   {new(Window), []string{"", "Sun", "Sun 02:00-02:00", "Sun 2:00-3:00", "Sun 02:00-25:00"}},
	}
	for name, tt := range tests {
		for _, bad := range tt.bad {
			if err := tt.into.UnmarshalText([]byte(bad)); err == nil {
				t.Errorf("%s: %q is accepted", name, bad)
			}
		}
	}
}
