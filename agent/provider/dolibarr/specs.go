package dolibarr

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	mib = 1 << 20
	// Shares of an instance's memory: Dolibarr's pages need more than a small database, and scheduled jobs run one at a time.
	minCronMemory, minDBMemory, minAppMemory = 64 * mib, 96 * mib, 96 * mib
	// A database has a few threads and no children; scheduled jobs are one program at a time.
	dbPIDs, cronPIDs = 128, 64
	// defaultPage is PHP's own limit where the container's says nothing.
	defaultPage = 256 * mib
)

// share is what one part of an instance may use.
type share struct{ memory, milliCPUs, pids int64 }

// shares splits an instance's limits. The parts' memory adds up to the whole; each may use all of its processor time. The engine refuses
// more cores than the host has.
func shares(l *v1.InstanceLimits) (db, app, cron share) {
	whole, cpus := int64(l.GetMemoryBytes()), min(int64(l.GetMilliCpus()), int64(runtime.NumCPU())*1000)
	cron = share{max(whole/8, minCronMemory), cpus, cronPIDs}
	db = share{max(whole*3/8, minDBMemory), cpus, dbPIDs}
	app = share{max(whole-db.memory-cron.memory, minAppMemory), cpus, int64(l.GetPids())}
	if whole == 0 {
		db.memory, app.memory, cron.memory = 0, 0, 0
	}
	return db, app, cron
}

func (s share) limit(c *docker.ContainerSpec) {
	c.MemoryBytes, c.MilliCPUs, c.PIDs = s.memory, s.milliCPUs, s.pids
}

// dbFlags keep a database small: mariadbd has 57 MB resident with them after its start.
func dbFlags() []string {
	return strings.Fields("--character-set-server=utf8mb4 --collation-server=utf8mb4_unicode_ci --performance-schema=OFF --skip-name-resolve " +
		"--innodb-buffer-pool-size=32M --innodb-log-buffer-size=2M --innodb-log-file-size=16M --key-buffer-size=1M --aria-pagecache-buffer-size=1M " +
		"--query-cache-type=0 --query-cache-size=0 --tmp-table-size=8M --max-heap-table-size=8M --table-open-cache=512 " +
		"--table-definition-cache=512 --max-connections=40 --thread-cache-size=2 --innodb-read-io-threads=2 --innodb-write-io-threads=2 " +
		"--innodb-purge-threads=1 --skip-log-bin")
}

// dbContainer is an instance's database. An unsafe one does not sync what it writes: for an installation, which is thrown away when it
// fails.
func (p *Provider) dbContainer(inst *v1.InstanceSpec, unsafe bool) docker.ContainerSpec {
	id := inst.GetId()
	db, _, _ := shares(inst.GetLimits())
	s := docker.ContainerSpec{
		Name: containerName(id, partDB), Image: inst.GetDbImage().GetUse(), Hostname: "db", Labels: labels(inst, partDB), Restart: "unless-stopped",
		Env: []string{"MARIADB_ROOT_PASSWORD_FILE=" + dolibarr.SecretsDir + "/db-root", "MARIADB_ROOT_HOST=localhost", "MARIADB_DATABASE=" + dbName,
			"MARIADB_USER=" + dbUser, "MARIADB_PASSWORD_FILE=" + dolibarr.SecretsDir + "/db", "MARIADB_MYSQL_LOCALHOST_USER=1",
			"MARIADB_MYSQL_LOCALHOST_GRANTS=ALL PRIVILEGES", "MARIADB_INITDB_SKIP_TZINFO=1"}, // PHP knows time zones
		Cmd:    dbFlags(),
		CapAdd: []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETUID", "SETGID"},
		Mounts: []docker.Mount{{Volume: volumeName(id, "data"), Target: "/var/lib/mysql"},
			p.file(path.Join(p.secretsDir(id), "db-root"), dolibarr.SecretsDir+"/db-root"), p.file(path.Join(p.secretsDir(id), "db"), dolibarr.SecretsDir+"/db")},
		Networks:    []docker.Attachment{{Network: networkName(id), Aliases: []string{dbHost}}},
		StopTimeout: stopGrace,
		Health: &docker.Health{Test: []string{"CMD", "healthcheck.sh", "--connect", "--innodb_initialized"}, Interval: healthEvery,
			Timeout: 10 * time.Second, StartPeriod: time.Minute, Retries: 2},
	}
	if unsafe {
		s.Env, s.Restart, s.CPUShares = append(s.Env, "INFRACTL_UNSAFE_IO=1"), "", onceShares
	}
	db.limit(&s)
	return s
}

// healthEvery is how often the engine looks whether a database or an application works: each look starts a process in its container, some
// 60 ms of a core, and a host has hundreds of them.
const healthEvery = 2 * time.Minute

// onceShares is the weight of what is done once: customers' pages come first.
const onceShares = 256

func (p *Provider) file(from, to string) docker.Mount {
	return docker.Mount{Host: p.host.Path(from), Target: to, ReadOnly: true}
}

// webContainer is what application, scheduled jobs and tool have in common. Of the image it takes PHP and the code alone: its own start is
// passed by, because the official one rewrites configuration, changes owners of all documents and upgrades databases. So every image runs
// as the web user, without any right, on a file system that cannot be written. pageMemory is PHP's own limit.
func (p *Provider) webContainer(inst *v1.InstanceSpec, part string, pageMemory int64) docker.ContainerSpec {
	id := inst.GetId()
	s := docker.ContainerSpec{
		Name: containerName(id, part), Image: inst.GetAppImage().GetUse(), Hostname: part, Labels: labels(inst, part), Restart: "unless-stopped",
		User: webUser(), ReadOnly: true,
		Tmpfs: map[string]string{"/tmp": "mode=1777", "/run": "mode=1777", "/var/lib/php/sessions": fmt.Sprintf("mode=0700,uid=%d,gid=%d",
			dolibarr.WebUser, dolibarr.WebUser)},
		Env: []string{"PHP_INI_SCAN_DIR=:" + dolibarr.ToolDir, // the files that the image has, and then those of the tool, which have these
			"PHP_INI_DATE_TIMEZONE=" + cmp.Or(inst.GetTimezone(), "UTC"), "PHP_INI_UPLOAD_MAX_FILESIZE=64M", "PHP_INI_POST_MAX_SIZE=66M",
			fmt.Sprintf(phpMemory+"%dM", pageMemory/mib)},
		Mounts: []docker.Mount{{Volume: volumeName(id, "documents"), Target: dolibarr.Documents}, {Volume: volumeName(id, "custom"), Target: dolibarr.Custom},
			{Host: p.host.Path(p.confDir(id)), Target: dolibarr.Conf, ReadOnly: true}, {Host: p.host.Path(p.toolDir()), Target: dolibarr.ToolDir, ReadOnly: true}},
		Networks: []docker.Attachment{{Network: networkName(id), Aliases: []string{part}}},
	}
	return s
}

func webUser() string { return fmt.Sprintf("%d:%d", dolibarr.WebUser, dolibarr.WebUser) }

func (p *Provider) appContainer(inst *v1.InstanceSpec) docker.ContainerSpec {
	_, app, _ := shares(inst.GetLimits())
	page := int64(defaultPage)
	if app.memory > 0 { // one page may take half of it: what does not fit is an error of PHP, and not a killed server
		page = max(app.memory/2, minCronMemory)
	}
	s := p.webContainer(inst, partApp, page)
	app.limit(&s)
	s.Env = append(s.Env, webWorkers, "DOLI_INSTALL_AUTO=0", "DOLI_CRON=0") // the last two for whoever starts the official image's own start
	s.Entrypoint, s.Cmd = []string{"apache2", "-f", dolibarr.ToolDir + "/infractl.conf", "-D", "FOREGROUND"}, nil
	s.Health = &docker.Health{Test: []string{"CMD", "sh", dolibarr.ToolDir + "/infractl-healthcheck"}, Interval: healthEvery, Timeout: 15 * time.Second,
		StartPeriod: time.Minute, Retries: 2}
	s.StopSignal, s.StopTimeout = "SIGWINCH", 20*time.Second // requests at work come to their end
	return s
}

// webWorkers bounds the requests at work; each may take a page's memory.
const webWorkers = "APACHE_MAX_WORKERS=8"

func (p *Provider) cronContainer(inst *v1.InstanceSpec) docker.ContainerSpec {
	s := p.webContainer(inst, partCron, defaultPage)
	_, _, cron := shares(inst.GetLimits())
	cron.limit(&s)
	s.Entrypoint, s.Cmd = []string{"sh", dolibarr.CronFile}, nil
	s.Env = append(s.Env, "INFRACTL_TOOL="+p.tool) // it goes on with what it has read, so that another tool is another container
	s.Mounts = append(s.Mounts, p.file(path.Join(p.webSecretsDir(inst.GetId()), "cron-key"), dolibarr.SecretsDir+"/cron-key"))
	s.Health = &docker.Health{Test: []string{"NONE"}}
	s.StopSignal, s.StopTimeout = "SIGTERM", 30*time.Second
	return s
}

// toolContainer is the container in which verbs of the tool run, beside an instance.
func (p *Provider) toolContainer(inst *v1.InstanceSpec, _ string, writable bool) docker.ContainerSpec {
	s := p.webContainer(inst, partTool, defaultPage)
	_, app, _ := shares(inst.GetLimits())
	s.MemoryBytes, s.PIDs, s.CPUShares = max(app.memory, 256*mib), cronPIDs, onceShares
	s.Restart, s.Health = "", &docker.Health{Test: []string{"NONE"}}
	for i := range s.Mounts {
		if s.Mounts[i].Target == dolibarr.Conf {
			s.Mounts[i].ReadOnly = !writable
		}
	}
	s.Mounts = append(s.Mounts, docker.Mount{Host: p.host.Path(p.webSecretsDir(inst.GetId())), Target: dolibarr.SecretsDir, ReadOnly: true})
	return s
}

// phpMemory is PHP's own limit.
const phpMemory = "PHP_INI_MEMORY_LIMIT="

// marked puts the digest of what a container is made of on it. Limits are left out: they change without a new container, and PHP's own
// follows when there is one. Whether there is a limit stays in: the engine takes none away from a container.
func marked(s docker.ContainerSpec, imageID string) (docker.ContainerSpec, error) {
	plain := s
	plain.MemoryBytes, plain.MilliCPUs, plain.PIDs = min(1, s.MemoryBytes), min(1, s.MilliCPUs), min(1, s.PIDs)
	plain.Env = slices.DeleteFunc(slices.Clone(s.Env), func(v string) bool { return strings.HasPrefix(v, phpMemory) })
	text, err := json.Marshal(plain)
	if err != nil {
		return s, errs.Wrap("describe a container", err)
	}
	sum := sha256.Sum256(append(text, imageID...))
	with := map[string]string{labelWish: hex.EncodeToString(sum[:16])}
	for k, v := range s.Labels {
		with[k] = v
	}
	s.Labels = with
	return s, nil
}
