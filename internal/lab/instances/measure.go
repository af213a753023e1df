package instances

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab/demo"
)

// Made is how long making an instance took, in seconds.
type Made struct {
	// Page is the time until the login page was seen from the internet, Command until the command ended.
	Page, Command float64
}

// TimeCreate makes an instance and measures. The page is asked for all the while, as an impatient customer would.
func (f *Fleet) TimeCreate(ctx context.Context, name string, args ...string) (Made, error) {
	begun := time.Now()
	var made Made
	var seen error
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() {
		_, seen = f.WaitLogin(ctx, name, 4*time.Minute)
		made.Page = time.Since(begun).Seconds()
	})
	_, err := f.MustCreate(ctx, name, args...)
	made.Command = time.Since(begun).Seconds()
	if err != nil {
		cancel()
	}
	wg.Wait()
	if err != nil {
		return made, err
	}
	return made, seen
}

// Load asks for pages over and over, one after the other, until it is stopped.
type Load struct {
	stop  context.CancelFunc
	group sync.WaitGroup
	mu    sync.Mutex
	took  []float64
	bad   int
}

// StartLoad starts one customer per instance.
func (f *Fleet) StartLoad(ctx context.Context, names ...string) *Load {
	ctx, stop := context.WithCancel(ctx)
	l := &Load{stop: stop}
	for _, name := range names {
		l.group.Go(func() {
			for ctx.Err() == nil {
				p, err := f.browse(ctx, URL(name)+"index.php")
				if ctx.Err() != nil {
					return
				}
				l.mu.Lock()
				if err != nil || p.IsLogin() != nil {
					l.bad++
				} else {
					l.took = append(l.took, p.Seconds*1000)
				}
				l.mu.Unlock()
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	return l
}

// End stops the load. It returns the 95th percentile of the times of the pages in milliseconds, their number, and how many were not the page.
func (l *Load) End() (p95 float64, pages, bad int) {
	l.stop()
	l.group.Wait()
	return P95(l.took), len(l.took), l.bad
}

// P95 is the 95th percentile; 0 of nothing.
func P95(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	return sorted[min(len(sorted)-1, len(sorted)*95/100)]
}

// Memory is what an instance's containers hold, in megabytes: the proportional set size of all their processes. What the kernel caches
// of their files is not theirs.
func (f *Fleet) Memory(ctx context.Context, name string) (map[string]float64, error) {
	out, err := f.Lab.VM(demo.Prod).Must(ctx, "sh", "-c", `for c in $(docker ps -q --filter label=infractl.instance=`+name+`); do
  part=$(docker inspect -f '{{index .Config.Labels "infractl.part"}}' $c); sum=0
  for p in $(docker top $c -eo pid | tail -n +2); do
    kb=$(awk '/^Pss:/ {print $2}' /proc/$p/smaps_rollup 2>/dev/null); sum=$((sum + ${kb:-0}))
  done
  echo $part $sum
done`)
	if err != nil {
		return nil, err
	}
	parts := map[string]float64{}
	for line := range strings.Lines(out) {
		part, kb, ok := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseFloat(kb, 64)
		if !ok || err != nil || n == 0 {
			return nil, errs.New(errs.Internal, "the memory of %s cannot be measured: %q", name, line)
		}
		parts[part] += n * 1024 / 1e6
	}
	return parts, nil
}

// SeedRecords gives the server so many suspended instances beside those that are there, as if they had been made: for lists. The site is
// good for nothing else afterwards.
func (f *Fleet) SeedRecords(ctx context.Context, like string, total int) error {
	relay := f.Lab.VM(demo.Relay)
	if _, err := relay.Must(ctx, "systemctl", "stop", "infractl-server.service"); err != nil {
		return err
	}
	program := fmt.Sprintf(`import glob, json, sqlite3
(file,) = glob.glob("/var/lib/infractl-server/**/infractl.db", recursive=True)
db = sqlite3.connect(file)
def fields(data):
    try:
        value = json.loads(data)
        return value if isinstance(value, dict) else {}
    except ValueError:
        return {}
rows = db.execute("SELECT kind, revision, created, updated, data FROM records").fetchall()
(old,) = [r for r in rows if fields(r[4]).get("name") == %q and "subnet" in fields(r[4])]
have = len([r for r in rows if r[0] == old[0] and "purged" not in fields(r[4])])
for n in range(have, %d):
    new = fields(old[4])
    new.update(name="seed%%03d" %% n, id="seed%%04d" %% n, subnet="10.210.%%d.%%d/28" %% (128 + n // 16, n %% 16 * 16), mode=3, suspended=new["created"])
    db.execute("INSERT INTO records (kind, name, revision, created, updated, data) VALUES (?, ?, ?, ?, ?, ?)",
               (old[0], new["id"], *old[1:4], json.dumps(new).encode()))
db.commit()
`, like, total)
	r, err := relay.ExecIn(ctx, strings.NewReader(program), "python3", "-")
	if err != nil {
		return err
	}
	if err := r.OK("python3", "seed records"); err != nil {
		return err
	}
	if _, err := relay.Must(ctx, "systemctl", "start", "infractl-server.service"); err != nil {
		return err
	}
	for range 100 {
		if r, err := f.Infractl(ctx, "instance", "list"); err == nil && r.Code == 0 {
			if n := strings.Count(r.Stdout, "\n") - 1; n != total {
				return errs.New(errs.Internal, "%d instances are listed, not %d", n, total)
			}
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errs.New(errs.Timeout, "the server does not answer")
}
