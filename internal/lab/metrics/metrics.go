// Package metrics watches the lab's site as a company would: Debian's Prometheus finds all pages through the server's service
// discovery and reads them, Debian's node exporter on the same VM is what the agent's page is compared with, and scrapes with
// many containers are measured. Tests and the benchmark share it.
package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab/demo"
)

// Supervision is the VM that Prometheus runs on.
const Supervision = "srv-supervision"

// scrapeDir is where the agent keeps Prometheus' certificate.
const scrapeDir = "/var/lib/infractl/scrape"

// config is all that Prometheus needs: where the server is, and the files that the agent keeps.
func config() string {
	const tls = `tls_config: {ca_file: ` + scrapeDir + `/ca.pem, cert_file: ` + scrapeDir + `/cert.pem, key_file: ` + scrapeDir + `/key.pem}`
	return `global: {scrape_interval: 5s}
scrape_configs:
  - job_name: node
    scheme: https
    ` + tls + `
    http_sd_configs:
      - url: https://10.0.10.4:7443/discovery/prometheus
        refresh_interval: 5s
        ` + tls + `
`
}

// StartPrometheus starts Debian's Prometheus on the supervision VM. The agent must have been given the certificate.
func StartPrometheus(ctx context.Context, s *demo.Site) error {
	const op = "start Prometheus"
	vm := s.Lab.VM(Supervision)
	if err := wait(ctx, 30*time.Second, func() (bool, error) {
		r, err := vm.Exec(ctx, "test", "-s", scrapeDir+"/key.pem")
		return r.Code == 0, err
	}); err != nil {
		return errs.Wrap(op+": wait for its certificate", err)
	}
	if err := vm.WriteFile(ctx, "/etc/prometheus/prometheus.yml", 0o644, []byte(config())); err != nil {
		return errs.Wrap(op, err)
	}
	if _, err := vm.Must(ctx, "promtool", "check", "config", "/etc/prometheus/prometheus.yml"); err != nil {
		return errs.Wrap(op, err)
	}
	_, err := vm.Must(ctx, "systemctl", "restart", "prometheus.service")
	return errs.Wrap(op, err)
}

// StopPrometheus stops it.
func StopPrometheus(ctx context.Context, s *demo.Site) error {
	_, err := s.Lab.VM(Supervision).Must(ctx, "systemctl", "stop", "prometheus.service")
	return errs.Wrap("stop Prometheus", err)
}

// Query asks Prometheus and returns values by the label "node", or "server" for the server's own page.
func Query(ctx context.Context, s *demo.Site, query string) (map[string]float64, error) {
	out, err := s.Lab.VM(Supervision).Must(ctx, "curl", "--silent", "--max-time", "5", "--get", "--data-urlencode", "query="+query,
		"http://127.0.0.1:9090/api/v1/query")
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return nil, errs.Wrap("ask Prometheus", err)
	}
	values := map[string]float64{}
	for _, r := range answer.Data.Result {
		name := r.Metric["node"]
		if r.Metric["job"] == "infractl-server" {
			name = "server"
		}
		text, _ := r.Value[1].(string)
		if values[name], err = strconv.ParseFloat(text, 64); err != nil {
			return nil, errs.Wrap("ask Prometheus", err)
		}
	}
	return values, nil
}

// WaitUp waits until Prometheus reads all of the nodes' pages and the server's, and returns what it last saw.
func WaitUp(ctx context.Context, s *demo.Site, limit time.Duration) (map[string]float64, error) {
	var last map[string]float64
	want := append(slices.Clone(demo.Nodes()), "server")
	err := wait(ctx, limit, func() (bool, error) {
		up, err := Query(ctx, s, "up")
		if err != nil {
			return false, nil // it starts
		}
		last = up
		for _, n := range want {
			if up[n] != 1 {
				return false, nil
			}
		}
		return len(up) == len(want), nil
	})
	return last, err
}

func wait(ctx context.Context, limit time.Duration, ok func() (bool, error)) error {
	for deadline := time.Now().Add(limit); ; {
		if done, err := ok(); done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errs.New(errs.Timeout, "not within %s", limit)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// Page reads a node's metrics page from the supervision VM, as Prometheus does.
func Page(ctx context.Context, s *demo.Site, address string) (string, error) {
	return s.Lab.VM(Supervision).Must(ctx, append(curl(), "https://"+address+":9100/metrics")...)
}

func curl() []string {
	return []string{"curl", "--silent", "--show-error", "--fail", "--max-time", "50", "--cacert", scrapeDir + "/ca.pem",
		"--cert", scrapeDir + "/cert.pem", "--key", scrapeDir + "/key.pem"}
}

// Cost is what scrapes of one agent have cost.
type Cost struct {
	// Scrapes is how many were made, Bytes how large the last one was, Containers how many it showed.
	Scrapes, Bytes, Containers int
	// P50 and P99 are times of scrapes, TLS handshake not counted.
	P50, P99 time.Duration
	// CPU is the agent's processor time per scrape.
	CPU time.Duration
	// BusyRSS is the agent's resident memory right after them, RSS that once it has come to rest, in bytes.
	BusyRSS, RSS float64
}

// AtRest is after which time an agent with nothing to do has given back what its work needed: it looks every 2 s.
const AtRest = 6 * time.Second

// Measure scrapes a node's page over one connection, as Prometheus does, one scrape after the other.
func Measure(ctx context.Context, s *demo.Site, vm, address string, scrapes int) (Cost, error) {
	const op = "measure scrapes"
	c := Cost{Scrapes: scrapes}
	page, err := Page(ctx, s, address)
	if err != nil {
		return c, errs.Wrap(op, err)
	}
	c.Bytes, c.Containers = len(page), strings.Count(page, "\ncontainer_last_seen{")
	before, _, err := agent(ctx, s, vm)
	if err != nil {
		return c, errs.Wrap(op, err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	argv := append(curl(), "--write-out", "%{time_pretransfer} %{time_total}\n", "--output", "/dev/null")
	argv = append(argv, fmt.Sprintf("https://%s:9100/metrics?n=[1-%d]", address, scrapes))
	out, err := s.Lab.VM(Supervision).Must(ctx, argv...)
	if err != nil {
		return c, errs.Wrap(op, err)
	}
	after, busy, err := agent(ctx, s, vm)
	if err != nil {
		return c, errs.Wrap(op, err)
	}
	c.CPU, c.BusyRSS = (after-before)/time.Duration(scrapes), busy
	time.Sleep(AtRest)
	if _, c.RSS, err = agent(ctx, s, vm); err != nil {
		return c, errs.Wrap(op, err)
	}
	var took []time.Duration
	for line := range strings.Lines(out) {
		var ready, total float64
		if _, err := fmt.Sscan(line, &ready, &total); err != nil {
			return c, errs.Wrap(op, err)
		}
		took = append(took, time.Duration((total-ready)*float64(time.Second)))
	}
	slices.Sort(took)
	if len(took) == 0 {
		return c, errs.New(errs.Internal, "nothing was measured")
	}
	c.P50, c.P99 = took[len(took)/2], took[len(took)*99/100]
	return c, nil
}

// agent returns the processor time and the resident memory of a VM's agent.
func agent(ctx context.Context, s *demo.Site, vm string) (cpu time.Duration, rss float64, err error) {
	out, err := s.Lab.VM(vm).Must(ctx, "sh", "-c",
		`p=$(systemctl show -p MainPID --value infractl-agent); cut -d")" -f2 /proc/$p/stat; grep VmRSS /proc/$p/status`)
	if err != nil {
		return 0, 0, err
	}
	f := strings.Fields(out)
	i := slices.Index(f, "VmRSS:")
	if i < 13 || len(f) < i+2 {
		return 0, 0, errs.New(errs.Internal, "unreadable: %q", out)
	}
	user, uerr := strconv.Atoi(f[11])
	system, serr := strconv.Atoi(f[12])
	kb, kerr := strconv.ParseFloat(f[i+1], 64)
	return time.Duration(user+system) * 10 * time.Millisecond, kb * 1024, errs.Join(uerr, serr, kerr)
}

// startLimit bounds starting and removing many containers: about a second for each.
const startLimit = 4 * time.Minute

// StartContainers starts n containers on the prod VM.
func StartContainers(ctx context.Context, s *demo.Site, n int) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	_, err := s.Lab.VM(demo.Prod).Must(ctx, "sh", "-c", fmt.Sprintf(
		"for i in $(seq %d); do docker run -d --pull never --name many-$i --label com.docker.compose.project=many "+
			"--label com.docker.compose.service=s$i infractl-lab/busybox sleep 100000 >/dev/null || exit 1; done", n))
	return errs.Wrap("start containers", err)
}

// StopContainers removes them.
func StopContainers(ctx context.Context, s *demo.Site) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	_, err := s.Lab.VM(demo.Prod).Must(ctx, "sh", "-c", "docker ps -aq --filter label=com.docker.compose.project=many | xargs -r docker rm -f >/dev/null")
	return errs.Wrap("stop containers", err)
}
