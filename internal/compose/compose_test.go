package compose

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func variables() map[string]string {
	return map[string]string{"INFRACTL_SITE": "lab", "INFRACTL_NODE": "web", "INFRACTL_ADDRESS": "10.0.10.10", "INFRACTL_SERVER": "10.0.10.4:7443"}
}

func input(content string) Input {
	return Input{Stack: "demo", File: "stacks/demo.yml", Content: []byte(content), Variables: variables(),
		Files: map[string][]byte{"demo/app.conf": []byte("x"), "demo/conf.d/a": []byte("y"), "demo/app.env": []byte("LEVEL=info\nDB_PASSWORD=hunter2\n")}}
}

const good = `
x-common: &common
  restart: unless-stopped
  healthcheck: {test: ["CMD", "true"], interval: 10s}
services:
  web:
    <<: *common
    image: jc21/nginx-proxy-manager:2.12.6
    ports: ["${INFRACTL_ADDRESS}:80-81:80-81", "127.0.0.1:9000:9000/udp"]
    environment:
      DB_PASSWORD__FILE: /run/secrets/db
      RANDOM_ROOT_PASSWORD: "yes"
      PRICE: "5$$"
    secrets: [db]
    volumes: ["data:/data", "./demo/app.conf:/etc/app.conf:ro", "./demo/conf.d:/etc/conf.d:ro", "/etc/localtime:/etc/localtime:ro"]
    depends_on: {db: {condition: service_healthy}}
  db:
    <<: *common
    image: mariadb:10.11
    secrets: [db]
secrets:
  db: {external: true, name: npm-db}
volumes: {data: {}}
`

func TestParseSaysWhatAStackNeeds(t *testing.T) {
	got, findings := Parse(input(good))
	if len(findings) > 0 {
		t.Fatalf("findings: %v", findings)
	}
	here := netip.MustParseAddr("10.0.10.10")
	want := &Stack{
		Services: []string{"db", "web"}, Images: []string{"jc21/nginx-proxy-manager:2.12.6", "mariadb:10.11"}, Secrets: []string{"npm-db"},
		Ports: []Port{
			{"web", here, "tcp", 80, 80, 9, 12}, {"web", here, "tcp", 81, 81, 9, 12},
			{"web", netip.MustParseAddr("127.0.0.1"), "udp", 9000, 9000, 9, 12},
		},
		Volumes: []string{"data"}, Files: []string{"demo/app.conf", "demo/conf.d"},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// service is a whole file around lines of one service, which begin on line 5.
func service(lines ...string) string {
	return "services:\n  web:\n    image: nginx:1.26\n    healthcheck: {test: [CMD, \"true\"]}\n    " + strings.Join(lines, "\n    ") + "\n"
}

func TestParseRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		content string
		want    string // line: part of the message
	}{
		"ErrEmpty":             {"", "1: empty"},
		"ErrNoYAML":            {"services:\n\t- x", "2: no YAML"},
		"ErrList":              {"- a", "1: mapping"},
		"ErrTwoDocuments":      {service("tty: true") + "---\nservices: {}\n", "6: second document"},
		"ErrNoServices":        {"volumes: {}", "1: no services"},
		"ErrUnknownKey":        {service("colour: red"), "5: colour is refused"},
		"ErrUnknownTopKey":     {"models: {}\n" + service("tty: true"), "1: models is refused"},
		"ErrWrongType":         {service("tty: [maybe]"), "5: tty"},
		"ErrTwiceTheSame":      {service("tty: true", "tty: false"), "6: already defined"},
		"ErrMergeTag":          {service("command: !reset null"), "5: tag"},
		"ErrBuild":             {service("build: ."), "5: build is refused"},
		"ErrExtends":           {service("extends: {service: x, file: /etc/passwd}"), "5: extends is refused"},
		"ErrInclude":           {"include: [/etc/passwd]\n" + service("tty: true"), "1: include is refused"},
		"ErrPrivileged":        {service("privileged: true"), "5: privileged is refused"},
		"ErrMergedPrivileged":  {"x-a: &a\n  privileged: true\nservices:\n  web:\n    <<: *a\n    image: a:1\n", "2: privileged is refused"},
		"ErrHostNetwork":       {service("network_mode: host"), "5: network_mode host"},
		"ErrForeignNetwork":    {service("network_mode: container:db"), "5: network_mode"},
		"ErrHostPid":           {service("pid: host"), "5: pid host"},
		"ErrHostIpc":           {service("ipc: host"), "5: ipc host"},
		"ErrHostUsers":         {service("userns_mode: host"), "5: userns_mode is refused"},
		"ErrCapability":        {service("cap_add: [CHOWN, CAP_SYS_ADMIN]"), "5: CAP_SYS_ADMIN"},
		"ErrAllCapabilities":   {service("cap_add: [ALL]"), "5: ALL"},
		"ErrDevice":            {service("devices: [/dev/kmsg]"), "5: devices is refused"},
		"ErrReservedDevice":    {service("deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}"), "5: devices are refused"},
		"ErrUnconfined":        {service("security_opt: [seccomp=unconfined]"), "5: security_opt"},
		"ErrHook":              {service("post_start: [{command: id, privileged: true}]"), "5: post_start"},
		"ErrHostPath":          {service("volumes: [\"/data:/data\"]"), "5: /data is refused"},
		"ErrHome":              {service("volumes: [\"~/x:/data\"]"), "5: refused"},
		"ErrWritableHostPath":  {service("volumes: [\"/etc/localtime:/etc/localtime\"]"), "5: not written"},
		"ErrWritableFile":      {service("volumes: [\"./demo/app.conf:/x\"]"), "5: must not change it"},
		"ErrOutsideFolder":     {service("volumes: [\"../x:/x:ro\"]"), "5: outside"},
		"ErrClimbingOut":       {service("volumes: [\"./demo/../../x:/x:ro\"]"), "5: outside"},
		"ErrMissingFile":       {service("volumes: [\"./demo/nothing:/x:ro\"]"), "5: does not exist"},
		"ErrDisguisedPath":     {service("volumes: [\"v:/x\"]") + "volumes:\n  v: {driver: local, driver_opts: {type: none, o: bind, device: /}}\n", "7: in disguise"},
		"ErrVolumeDriver":      {service("volumes: [\"v:/x\"]") + "volumes:\n  v: {driver: sshfs}\n", "7: driver"},
		"ErrEnvFileOutside":    {service("env_file: /etc/environment"), "5: outside"},
		"ErrEnvFilePassword":   {service("env_file: ./demo/app.env"), "2: DB_PASSWORD"},
		"ErrPassword":          {service("environment:", "  MYSQL_PASSWORD: 'npm'"), "6: MYSQL_PASSWORD"},
		"ErrPasswordInList":    {service("environment:", "  - A=1", "  - GF_SECURITY_ADMIN_PASSWORD=x"), "7: GF_SECURITY_ADMIN_PASSWORD"},
		"ErrPasswordDefault":   {service("environment:", "  DB_PASSWORD: ${DB_PASSWORD:-npm}"), "6: DB_PASSWORD"},
		"ErrPasswordInURL":     {service("environment:", "  DSN: mysql://npm:npm@db/npm"), "6: DSN"},
		"ErrPasswordArgument":  {service("command: [run, --db-password=npm]"), "5: plain text"},
		"ErrInheritedVariable": {service("environment: [HOME]"), "5: HOME has no value"},
		"ErrUnknownVariable":   {service("hostname: ${HOST}"), "5: no variable \"HOST\""},
		"ErrSecretInFile":      {service("secrets: [a]") + "secrets:\n  a: {file: ./demo/app.conf}\n", "7: not external"},
		"ErrUnknownSecret":     {service("secrets: [a]"), "2: secret"},
		"ErrConfigOutside":     {service("configs: [a]") + "configs:\n  a: {file: ./x}\n", "7: outside"},
		"ErrNoTag":             {"services:\n  web:\n    image: nginx\n", "3: no version"},
		"ErrLatest":            {"services:\n  web:\n    image: nginx:latest\n", "3: latest"},
		"ErrNoImage":           {"services:\n  web:\n    image: 'NGINX:1'\n", "3: names no image"},
		"ErrOpenPort":          {service("ports: [\"81:81\"]"), "5: every address"},
		"ErrOpenPortLong":      {service("ports: [{target: 81, published: \"81\", host_ip: 0.0.0.0}]"), "5: every address"},
		"ErrOpenPort6":         {service("ports: [\"[::]:81:81\"]"), "5: every address"},
		"ErrAnyPort":           {service("ports: [\"10.0.10.10::81\"]"), "5: no fixed port"},
		"ErrExternalNetwork":   {service("networks: [n]") + "networks:\n  n: {external: true, name: host}\n", "7: external"},
		"ErrMacvlan":           {service("networks: [n]") + "networks:\n  n: {driver: macvlan}\n", "7: macvlan"},
		"ErrOtherName":         {"name: other\n" + service("tty: true"), "1: other"},
		"ErrScale":             {service("scale: 2"), "5: 2 containers"},
		"ErrTooLarge":          {strings.Repeat("#", MaxFile+1), "1: larger than 256 KiB"},
		"ErrDeep":              {"services: " + strings.Repeat("[", 60) + strings.Repeat("]", 60), "1: deeper"},
		"ErrAliases":           {aliases(), ": more than 20000 values"},
	} {
		t.Run(name, func(t *testing.T) {
			stack, findings := Parse(input(tt.content))
			if stack != nil {
				t.Fatalf("accepted")
			}
			line, message, _ := strings.Cut(tt.want, ": ")
			for _, f := range findings {
				if f.Severity == Error && strings.Contains(f.Message, message) && (line == "" || fmt.Sprint(f.Line) == line) {
					return
				}
			}
			t.Errorf("want line %s, %q; got %v", line, message, findings)
		})
	}
}

// aliases is a small file that means a large one.
func aliases() string {
	b := strings.Builder{}
	b.WriteString("x-0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n")
	for i := 1; i < 8; i++ {
		fmt.Fprintf(&b, "x-%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 8), ", "))
	}
	return b.String() + "services: {}\n"
}

func TestParseWarns(t *testing.T) {
	content := "version: \"3\"\n" + service("volumes: [\"/var/run/docker.sock:/var/run/docker.sock\"]", "profiles: [debug]") +
		"  bare:\n    image: nginx:1.26\nsecrets:\n  unused: {external: true}\n"
	stack, findings := Parse(input(content))
	if stack == nil {
		t.Fatalf("refused: %v", findings)
	}
	var got []string
	for _, f := range findings {
		got = append(got, fmt.Sprintf("%d %s", f.Line, strings.SplitN(f.Message, ":", 2)[0]))
	}
	want := []string{"1 version means nothing any more", "6 /var/run/docker.sock is the engine itself", "7 service web never starts",
		"8 service bare has no health check", "11 no service uses the secret unused"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTheEnvironmentOfTheProcessIsNeverUsed(t *testing.T) {
	t.Setenv("HOST", "leak")
	t.Setenv("SECRET_OF_THE_PROCESS", "leak")
	_, findings := Parse(input(service("hostname: ${HOST}", "environment: [SECRET_OF_THE_PROCESS]")))
	if len(findings) != 2 || strings.Contains(fmt.Sprint(findings), "leak") {
		t.Errorf("got %v", findings)
	}
}

func TestFamiliar(t *testing.T) {
	for ref, want := range map[string]string{
		"nginx:1": "nginx:1", "docker.io/library/nginx:1": "nginx:1", "index.docker.io/jc21/x:2": "jc21/x:2", "lab/x:1": "lab/x:1",
		"nginx": "", "UPPER:1": "", "registry.example:5000/a/b:3": "registry.example:5000/a/b:3",
	} {
		if got, ok := Familiar(ref); got != want || ok != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", ref, got, ok, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add(service("ports: [\"81:81\"]", "environment: {A: $B}"))
	f.Add(aliases())
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, content string) {
		stack, findings := Parse(input(content))
		failed := false
		for _, x := range findings {
			failed = failed || x.Severity == Error
			if x.Line < 1 || x.Column < 1 || x.Message == "" {
				t.Errorf("finding without place or message: %+v", x)
			}
		}
		if failed == (stack != nil) {
			t.Errorf("stack %v with findings %v", stack, findings)
		}
	})
}

func TestAnAcknowledgedEngineSocketIsNoWarning(t *testing.T) {
	stack, findings := Parse(input(service("volumes: [\"/var/run/docker.sock:/var/run/docker.sock\"]", "x-infractl-engine: it manages containers")))
	if stack == nil || len(findings) > 0 {
		t.Errorf("findings %v", findings)
	}
}
