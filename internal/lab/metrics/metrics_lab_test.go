//go:build lab

package metrics

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
)

// site is the lab that the tests of this package share, applied once.
var site *demo.Site

func TestMain(m *testing.M) {
	os.Exit(demo.Suite{
		Name: "metrics", Limit: 12 * time.Minute,
		Prepare: func(ctx context.Context, s *demo.Site) error {
			if err := s.Apply(ctx); err != nil {
				return err
			}
			return StartPrometheus(ctx, s)
		},
	}.Run(&site, m.Run))
}

func TestPrometheusFindsAndScrapesAllSixAndTheServer(t *testing.T) {
	up, err := WaitUp(t.Context(), site, 60*time.Second)
	if err != nil {
		t.Fatalf("up = %v: %v", up, err)
	}
	for query, want := range map[string]float64{
		"node_uname_info":                  float64(len(demo.Nodes())),
		"infractl_agent_session_up":        float64(len(demo.Nodes())),
		"infractl_nodes{state=\"online\"}": 1,
	} {
		got, err := Query(t.Context(), site, query)
		if err != nil || float64(len(got)) != want {
			t.Errorf("%s: %v, %v, want %v series", query, got, err, want)
		}
	}
}

func TestEverythingOfDebiansNodeExporterIsThere(t *testing.T) {
	differences, compared, err := Compare(t.Context(), site, demo.Prod, "10.0.10.20")
	if err != nil {
		t.Fatal(err)
	}
	if compared < 100 {
		t.Errorf("only %d series names were compared", compared)
	}
	for _, d := range differences {
		if d.Why == "" {
			t.Errorf("missing: %s", d.Series)
			continue
		}
		t.Logf("missing: %s: %s", d.Series, d.Why)
	}
	t.Logf("%d series names of Debian's node exporter, %d not on the agent's page", compared, len(differences))
}

func TestOthersMayNotReadThePage(t *testing.T) {
	relay := site.Lab.VM(demo.Relay)
	r, err := relay.Exec(t.Context(), "curl", "--silent", "--insecure", "--max-time", "3", "https://10.0.10.4:9100/metrics")
	if err != nil || r.Code == 0 {
		t.Errorf("without a certificate: code %d, %v: %.200s", r.Code, err, r.Stdout)
	}
	r, err = relay.Exec(t.Context(), "curl", "--silent", "--insecure", "--max-time", "3", "https://10.0.10.20:9100/metrics")
	if err != nil || r.Code == 0 {
		t.Errorf("from the relay through the firewall: code %d, %v", r.Code, err)
	}
}

func TestScrapesWithManyContainers(t *testing.T) {
	if err := StartContainers(t.Context(), site, 40); err != nil {
		t.Fatal(err)
	}
	defer StopContainers(context.WithoutCancel(t.Context()), site)
	time.Sleep(11 * time.Second) // the list of containers is read anew
	if _, err := Page(t.Context(), site, "10.0.10.20"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	cost, err := Measure(t.Context(), site, demo.Prod, "10.0.10.20", 100)
	if err != nil {
		t.Fatal(err)
	}
	if cost.Containers != 40 {
		t.Errorf("%d containers on the page, want 40", cost.Containers)
	}
	memory, err := site.Lab.VM(demo.Prod).Must(t.Context(), "sh", "-c", "grep Rss /proc/$(systemctl show -p MainPID --value infractl-agent)/status")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(memory)
	t.Logf("%+v; at one scrape in 15 s %.2f %% of a core", cost, cost.CPU.Seconds()/15*100)
}

func TestTopShowsHostsAndContainers(t *testing.T) {
	out, err := site.Must(t.Context(), "top", "--once")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range demo.Nodes() {
		if !strings.Contains(out, n) {
			t.Errorf("no %s in:\n%s", n, out)
		}
	}
}
