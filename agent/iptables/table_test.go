package iptables

import (
	"strings"
	"testing"
)

func TestSameRuleInAnotherSpellingIsTheSame(t *testing.T) {
	for a, b := range map[string]string{
		"-s 10.0.0.1/32 -j ACCEPT":                                     "-s 10.0.0.1 -j ACCEPT",
		"-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT":         "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"-p 58 -j ACCEPT":                                              "-p ipv6-icmp -j ACCEPT",
		"-p icmpv6 -j ACCEPT":                                          "-p ipv6-icmp -j ACCEPT",
		"-p tcp --dport 22 -j ACCEPT":                                  "-p tcp -m tcp --dport 22:22 -j ACCEPT",
		`-m comment --comment infractl_x -j DROP`:                      `-m comment --comment "infractl_x" -j DROP`,
		"-p tcp -m conntrack --ctdir ORIGINAL --ctorigdstport 80 -j X": "-p tcp -m conntrack --ctorigdstport 80 --ctdir ORIGINAL -j X",
		"-i docker0 ! -s 10.0.0.1/32 -d 10.0.0.2 -j ACCEPT":            "! -s 10.0.0.1/32 -d 10.0.0.2/32 -i docker0 -j ACCEPT",
	} {
		if Normal(a) != Normal(b) {
			t.Errorf("%q and %q differ: %q, %q", a, b, Normal(a), Normal(b))
		}
	}
	for a, b := range map[string]string{
		"-s 10.0.0.1 -j ACCEPT":                 "-s 10.0.0.11 -j ACCEPT",
		"-j ACCEPT":                             "-g ACCEPT",
		"-p tcp -m tcp --dport 22 -j ACCEPT":    "-p tcp -m tcp --dport 22 -j RETURN",
		"! -s 10.0.0.1 -j ACCEPT":               "-s 10.0.0.1 -j ACCEPT",
		`-m comment --comment "a b" -j DROP`:    `-m comment --comment ab -j DROP`,
		"-p tcp -m tcp --sport 22 -j ACCEPT":    "-p tcp -m tcp --dport 22 -j ACCEPT",
		"! -s 10.0.0.1 -i lo -j ACCEPT":         "-s 10.0.0.1 ! -i lo -j ACCEPT",
		"-i lo -j ACCEPT":                       "-o lo -j ACCEPT",
		"-m limit --limit 1/s -j ACCEPT":        "-j ACCEPT",
		"-p tcp -m tcp --dport 22:23 -j ACCEPT": "-p tcp -m tcp --dport 22 -j ACCEPT",
		"-p tcp -m tcp ! --dport 22 -j ACCEPT":  "-p tcp -m tcp --dport 22 -j ACCEPT",
	} {
		if Normal(a) == Normal(b) {
			t.Errorf("%q and %q are the same: %q", a, b, Normal(a))
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("*nat\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\nCOMMIT\n*filter\n:DOCKER-USER - [0:0]\n" +
		":INFRACTL-FWD - [0:0]\n-A DOCKER-USER -j INFRACTL-FWD\n-A DOCKER-USER -j RETURN\nCOMMIT\n")
	f.Add("*filter\n:INFRACTL-IN - [0:0]\n-A INFRACTL-IN -m comment --comment \"a \\\" b\" -j DROP\n-I INPUT 1 -j INFRACTL-IN\nCOMMIT\n")
	f.Add("# Table `filter' is incompatible, use 'nft' tool.\n")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := Parse(Filter(), text)
		if err != nil {
			return
		}
		ours := k.Ours()
		again, err := Parse(Filter(), Transaction(Kernel{}, ours, false))
		if err != nil {
			t.Fatalf("what was written for %q is not understood: %v", text, err)
		}
		for _, c := range ours.Chains {
			if got := strings.Join(again.Rules[c.Name], "\n"); got != strings.Join(c.Rules, "\n") {
				t.Fatalf("chain %q became %q", c.Rules, got)
			}
		}
		normalAll(ours.rulesForTest())
	})
}

func (t Table) rulesForTest() []string {
	var list []string
	for _, c := range t.Chains {
		list = append(list, c.Rules...)
	}
	return list
}

func TestIncompatibleTableIsAnError(t *testing.T) {
	if _, err := Parse(Filter(), "# Table `filter' is incompatible, use 'nft' tool.\n"); err == nil {
		t.Error("no error")
	}
}
