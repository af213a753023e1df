package dolibarr

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

var updateFront = flag.Bool("update-front", false, "write the front's golden files anew")

func frontInstance(name, id, language string, mode v1.InstanceMode) *v1.InstanceSpec {
	return &v1.InstanceSpec{Name: name, Id: id, Mode: mode, Language: language, Domains: []string{name + ".example.test", "www." + name + ".test"}}
}

func frontSpec(instances ...*v1.InstanceSpec) *v1.DolibarrSpec {
	return &v1.DolibarrSpec{Instances: instances, Front: &v1.FrontSpec{ListenAddresses: []string{"10.0.10.20"}, Port: 80,
		Image: &v1.StackImage{Use: "infractl/front:1"}, TrustedProxies: []string{"10.0.10.5"}}}
}

func nobodyFull(*v1.InstanceSpec) bool { return false }

func TestFrontConfig(t *testing.T) {
	for name, spec := range map[string]*v1.DolibarrSpec{
		"none": frontSpec(),
		"modes": frontSpec(frontInstance("acme", "aaaaaaaa", "fr", v1.InstanceMode_INSTANCE_MODE_RUNNING),
			frontInstance("closed", "bbbbbbbb", "en", v1.InstanceMode_INSTANCE_MODE_CLOSED),
			frontInstance("gone", "cccccccc", "", v1.InstanceMode_INSTANCE_MODE_ARCHIVED),
			frontInstance("late", "dddddddd", "fr", v1.InstanceMode_INSTANCE_MODE_SUSPENDED)),
		"full": frontSpec(frontInstance("acme", "aaaaaaaa", "fr", v1.InstanceMode_INSTANCE_MODE_RUNNING),
			frontInstance("full", "bbbbbbbb", "fr", v1.InstanceMode_INSTANCE_MODE_RUNNING),
			frontInstance("full-late", "cccccccc", "fr", v1.InstanceMode_INSTANCE_MODE_SUSPENDED)),
	} {
		t.Run(name, func(t *testing.T) {
			full := func(i *v1.InstanceSpec) bool { return strings.HasPrefix(i.GetName(), "full") }
			got, digest, err := frontConfig(spec, full)
			if err != nil {
				t.Fatal(err)
			}
			if !json.Valid(got) || !strings.Contains(string(got), digest) {
				t.Errorf("digest %s does not stand in the configuration", digest)
			}
			file := filepath.Join("testdata", "front-"+name+".json")
			if *updateFront {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestFrontConfigRefuses(t *testing.T) {
	bad := func(change func(*v1.DolibarrSpec)) *v1.DolibarrSpec {
		s := frontSpec(frontInstance("acme", "aaaaaaaa", "fr", v1.InstanceMode_INSTANCE_MODE_RUNNING))
		change(s)
		return s
	}
	for name, spec := range map[string]*v1.DolibarrSpec{
		"a placeholder":         bad(func(s *v1.DolibarrSpec) { s.Instances[0].Domains[0] = "{env.SECRET}" }),
		"a wildcard":            bad(func(s *v1.DolibarrSpec) { s.Instances[0].Domains[0] = "*.example.test" }),
		"a domain of two":       bad(func(s *v1.DolibarrSpec) { s.Instances[0].Domains[0] = s.Instances[0].Domains[1] }),
		"a proxy of no address": bad(func(s *v1.DolibarrSpec) { s.Front.TrustedProxies = []string{"proxy"} }),
	} {
		if _, _, err := frontConfig(spec, nobodyFull); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFrontDigestFollowsTheWish(t *testing.T) {
	running := frontInstance("acme", "aaaaaaaa", "fr", v1.InstanceMode_INSTANCE_MODE_RUNNING)
	_, a, err := frontConfig(frontSpec(running), nobodyFull)
	if err != nil {
		t.Fatal(err)
	}
	suspended := frontInstance("acme", "aaaaaaaa", "fr", v1.InstanceMode_INSTANCE_MODE_SUSPENDED)
	if _, b, err := frontConfig(frontSpec(suspended), nobodyFull); err != nil || a == b {
		t.Errorf("%s and %s: %v", a, b, err)
	}
}

func TestNumbersOfTheLengthsThatAreRefused(t *testing.T) {
	for pattern, bound := range map[string]int{above64K: 64 << 10, above16K: 16 << 10} {
		form := regexp.MustCompile(pattern)
		for n := range 120_000 {
			if got := form.MatchString(strconv.Itoa(n)); got != (n > bound) {
				t.Fatalf("%d is above %d: %t", n, bound, got)
			}
		}
		if !form.MatchString("99999999999") {
			t.Error("a huge length is let in")
		}
	}
}

// TestOnlyInstancesThatRunArePassedOn holds for any wish: each domain has one route, and only what runs has a way to its application.
func TestOnlyInstancesThatRunArePassedOn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list []*v1.InstanceSpec
		for i := range rapid.IntRange(0, 8).Draw(t, "instances") {
			mode := v1.InstanceMode(rapid.IntRange(1, 4).Draw(t, "mode"))
			language := rapid.SampledFrom([]string{"fr", "en", "", "de"}).Draw(t, "language")
			list = append(list, frontInstance(fmt.Sprintf("n%d", i), fmt.Sprintf("%08d", i), language, mode))
		}
		text, _, err := frontConfig(frontSpec(list...), nobodyFull)
		if err != nil {
			t.Fatal(err)
		}
		var config struct {
			Apps struct {
				HTTP struct {
					Servers struct {
						Front struct{ Routes []json.RawMessage }
					}
				}
			}
		}
		if err := json.Unmarshal(text, &config); err != nil {
			t.Fatal(err)
		}
		routes := config.Apps.HTTP.Servers.Front.Routes
		if len(routes) != len(list)+2 {
			t.Fatalf("%d routes of %d instances", len(routes), len(list))
		}
		for i, inst := range list {
			route := string(routes[i+1])
			if !strings.Contains(route, `"`+inst.Domains[0]+`"`) || !strings.Contains(route, `"/install*"`) {
				t.Errorf("route %d is not that of %s, or lets the installer through", i, inst.Name)
			}
			passed := strings.Contains(route, containerName(inst.Id, "app")+":80")
			if running := inst.Mode == v1.InstanceMode_INSTANCE_MODE_RUNNING; passed != running || running == strings.Contains(route, "503") {
				t.Errorf("%s in mode %v: passed on %t", inst.Name, inst.Mode, passed)
			}
		}
	})
}
