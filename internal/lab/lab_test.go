package lab

import (
	"archive/tar"
	"context"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/internal/errs"
)

func TestDefaultSiteIsValid(t *testing.T) {
	cfg := DefaultSite("demo", t.TempDir())
	if err := cfg.Validate(); err != nil {
		t.Fatalf("Validate: %v", err)
	}
	want := []string{"vrouter", "client-relay", "srv-dhcp-dns", "srv-supervision", "srv-prod", "srv-pre-prod", "internet"}
	if diff := cmp.Diff(want, cfg.VMNames()); diff != "" {
		t.Errorf("VMs (-want +got):\n%s", diff)
	}
}

func TestValidateRefuses(t *testing.T) {
	address := netip.MustParsePrefix("10.0.0.1/24")
	for name, change := range map[string]func(*Config){
		"name with a slash":          func(c *Config) { c.Name = "a/b" },
		"name of one letter":         func(c *Config) { c.Name = "a" },
		"no folder":                  func(c *Config) { c.Dir = "" },
		"network name too long":      func(c *Config) { c.Networks[0].Name = "a-very-long-network" },
		"network twice":              func(c *Config) { c.Networks[1].Name = "wan" },
		"VM twice":                   func(c *Config) { c.VMs[1].Name = "vrouter" },
		"VM named like a namespace":  func(c *Config) { c.VMs[1].Name = "operator" },
		"unknown network":            func(c *Config) { c.VMs[1].Interfaces[0].Network = "dmz" },
		"lo on a network":            func(c *Config) { c.VMs[1].Interfaces[0].Name = "lo" },
		"card without a network":     func(c *Config) { c.VMs[1].Interfaces[0].Network = "" },
		"card twice":                 func(c *Config) { c.VMs[0].Interfaces[1].Name = "eth0" },
		"card name with a blank":     func(c *Config) { c.VMs[0].Interfaces[1].Name = "eth 1" },
		"wrong MAC":                  func(c *Config) { c.VMs[0].Interfaces[1].MAC = "02:00" },
		"route across families":      func(c *Config) { c.VMs[0].Routes[0].Via = netip.MustParseAddr("fe80::1") },
		"sysctl of the machine":      func(c *Config) { c.VMs[0].Sysctls = map[string]string{"vm.swappiness": "1"} },
		"sysctl that climbs":         func(c *Config) { c.VMs[0].Sysctls = map[string]string{"net./../vm/swappiness": "1"} },
		"unknown variant":            func(c *Config) { c.VMs[0].Variant = "arch" },
		"relative mount":             func(c *Config) { c.VMs[0].Mounts = []Mount{{Host: "bin", Guest: "/bin"}} },
		"file at the root":           func(c *Config) { c.VMs[0].Files = []File{{Guest: "/"}} },
		"file that climbs":           func(c *Config) { c.VMs[0].Files = []File{{Guest: "/etc/../../x"}} },
		"small disk without a size":  func(c *Config) { c.VMs[0].SmallDisks = []SmallDisk{{Guest: "/srv"}} },
		"unit name with an argument": func(c *Config) { c.VMs[0].EnableUnits = []string{"--now x"} },
		"empty address":              func(c *Config) { c.VMs[0].Interfaces[0].Addresses = []netip.Prefix{address, {}} },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := DefaultSite("demo", t.TempDir())
			change(&cfg)
			if err := cfg.Validate(); !errs.Is(err, errs.Invalid) {
				t.Errorf("Validate = %v, want an invalid configuration", err)
			}
		})
	}
}

func TestBatchesOfARouter(t *testing.T) {
	cards := []Interface{
		{Name: "lo", Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/32")}},
		{Network: "wan", Name: "eth0", MAC: "02:00:00:00:00:01", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.8.30/24")}},
		{Network: "lan", Name: "eth1", MAC: "02:00:00:00:00:02", Addresses: []netip.Prefix{netip.MustParsePrefix("fd00::1/64")}},
	}
	routes := []Route{
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.8.1")},
		{Dst: netip.MustParsePrefix("10.9.0.1/16"), Via: netip.MustParseAddr("192.168.8.2")},
	}
	got := bridgeBatch([]Network{{Name: "lan"}}) + "--\n" + cableBatch(3, "r", "77", cards, []string{"eth1"}) + "--\n" +
		addressBatch(cards, routes)
	want := `link set lo up
link add br-lan type bridge
link set br-lan addrgenmode none
link set br-lan up
--
link add p3-eth0 type veth peer name eth0 address 02:00:00:00:00:01 netns 77
link set p3-eth0 master br-wan addrgenmode none
link set p3-eth0 up
link add p3-eth1 type veth peer name eth1 address 02:00:00:00:00:02 netns 77
link set p3-eth1 master br-lan addrgenmode none
--
link set lo up
addr add 203.0.113.1/32 dev lo
addr add 192.168.8.30/24 dev eth0
link set eth0 up
addr add fd00::1/64 dev eth1 nodad
link set eth1 up
route add default via 192.168.8.1
route add 10.9.0.0/16 via 192.168.8.2
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("batches (-want +got):\n%s", diff)
	}
	wantArgs := []string{"sysctl", "-q", "-w", "net.a=2", "net.b=1"}
	if diff := cmp.Diff(wantArgs, sysctlArgs(map[string]string{"net.b": "1", "net.a": "2"})); diff != "" {
		t.Errorf("sysctl (-want +got):\n%s", diff)
	}
}

func TestMACIsStableAndLocal(t *testing.T) {
	first := MACFor("srv-prod", "eth0")
	if first != MACFor("srv-prod", "eth0") || first == MACFor("srv-prod", "eth1") || !strings.HasPrefix(first, "02:") {
		t.Errorf("MACFor = %s", first)
	}
}

func TestVMsLackWhatReachesTheMachineAndWhatWeLack(t *testing.T) {
	set, err := parseBounding("Name:\tx\nCapBnd:\t000001fffeffffff\nNoNewPrivs:\t0\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"SYS_MODULE", "SYS_BOOT", "SYS_TIME", "SYS_RAWIO", "MAC_ADMIN", "MAC_OVERRIDE", "SYS_RESOURCE"}
	if diff := cmp.Diff(want, droppedCaps(set)); diff != "" {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[:6], droppedCaps(1<<41-1)); diff != "" {
		t.Errorf("dropped by one who has all (-want +got):\n%s", diff)
	}
	if _, err := parseBounding("CapEff: 0\n"); err == nil {
		t.Error("a status without CapBnd was accepted")
	}
}

func TestRecipeTakesTheMachinesSourcesAndNetworkSettings(t *testing.T) {
	if !offersSuite("Types: deb\nURIs: http://mirror.test/debian\nSuites: trixie trixie-updates\nComponents: main\n", "trixie") {
		t.Error("deb822 source not recognised")
	}
	if !offersSuite("# mine\ndeb http://mirror.test/debian trixie main\n", "trixie") {
		t.Error("one-line source not recognised")
	}
	for _, foreign := range []string{"# deb http://mirror.test/debian trixie main\n", "deb https://other.test/apt stable main\n", ""} {
		if offersSuite(foreign, "trixie") {
			t.Errorf("%q taken for a source of the suite", foreign)
		}
	}
	dump := "APT \"\";\nAcquire::http::Proxy \"http://p.test:3128\";\nAcquire::Check-Date \"false\";\nAcquire::Languages:: \"none\";\nAcquire::http::User-Agent \"\";\n"
	want := []string{`Acquire::http::Proxy "http://p.test:3128"`, `Acquire::Check-Date "false"`}
	if diff := cmp.Diff(want, networkSettings(dump)); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if got := osRelease("ID=debian\nVERSION_CODENAME=\"trixie\"\n", "VERSION_CODENAME"); got != "trixie" {
		t.Errorf("code name = %q", got)
	}
	one := baseRecipe{suite: "a", sources: []string{"/x"}, content: "1"}
	two := baseRecipe{suite: "a", sources: []string{"/x"}, content: "2"}
	if one.hash() == two.hash() {
		t.Error("another mirror gives the same image")
	}
}

func TestContextHashFollowsContentAndBase(t *testing.T) {
	files := fstest.MapFS{"vm/Dockerfile": {Data: []byte("FROM x")}, "vm/rootfs/etc/a": {Data: []byte("1")}}
	hash := func(base string) string {
		t.Helper()
		h, err := contextHash(files, "vm", base)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	first := hash("b:1")
	if first != hash("b:1") {
		t.Error("the hash is not stable")
	}
	if first == hash("b:2") {
		t.Error("another base gives the same hash")
	}
	files["vm/rootfs/etc/a"].Data = []byte("2")
	if first == hash("b:1") {
		t.Error("another content gives the same hash")
	}
	pack, err := contextTar(files, "vm")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"Dockerfile", "rootfs/", "rootfs/etc/", "rootfs/etc/a"}
	if diff := cmp.Diff(want, names(t, pack)); diff != "" {
		t.Errorf("context (-want +got):\n%s", diff)
	}
}

func TestFilesThatTheEngineMountsAreSeeded(t *testing.T) {
	pack, err := filesTar([]File{{Guest: "/etc/resolv.conf"}, {Guest: "/etc/infractl/token", Mode: 0o600}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"var/lib/infractl-lab/seed/resolv.conf", "etc/infractl/token"}
	if diff := cmp.Diff(want, names(t, pack)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func names(t *testing.T, r io.Reader) []string {
	t.Helper()
	var list []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, h.Name)
	}
}

func TestStateLeavesContentsOut(t *testing.T) {
	cfg := DefaultSite("demo", t.TempDir())
	cfg.VMs[0].Files = []File{{Guest: "/etc/token", Mode: 0o600, Content: []byte("secret")}}
	l, err := newLab(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.image, l.cut["vrouter/eth0"] = "img", true
	if err := l.saveState(); err != nil {
		t.Fatal(err)
	}
	if string(l.cfg.VMs[0].Files[0].Content) != "secret" {
		t.Error("saving changed the configuration")
	}
	got, err := loadState(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Image != "img" || len(got.Cut) != 1 || got.Config.VMs[0].Files[0].Content != nil || got.Config.VMs[0].Files[0].Mode != 0o600 {
		t.Errorf("state = %+v", got)
	}
	if _, err := Open(context.Background(), t.TempDir()); !errs.Is(err, errs.NotFound) {
		t.Errorf("Open without a lab = %v", err)
	}
}

func TestRunReportsTheEnd(t *testing.T) {
	ctx := context.Background()
	result, err := run(ctx, hostEnv(), strings.NewReader("in"), "sh", "-c", "cat; echo bad >&2; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Result{Stdout: "in", Stderr: "bad\n", Code: 3}, result); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if result, _ = run(ctx, hostEnv(), nil, "sh", "-c", "kill -9 $$"); result.Code != 137 {
		t.Errorf("killed by 9: code = %d, want 137", result.Code)
	}
	if _, err := run(ctx, hostEnv(), nil, "/nonexistent"); err == nil {
		t.Error("a missing program gave no error")
	}
}

func TestRunEndsWhatHangsWithItsDescendants(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	// The inner process leaves group and session, so that only the walk over descendants finds it.
	result, err := run(ctx, hostEnv(), nil, "sh", "-c", "setsid sh -c 'echo $$; exec sleep 60' & wait")
	if !errs.Is(err, errs.Timeout) {
		t.Fatalf("err = %v, want a timeout", err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	pid := 0
	for _, r := range strings.TrimSpace(result.Stdout) {
		pid = pid*10 + int(r-'0')
	}
	if pid == 0 || !waitGone(func() bool { return startTime(pid) != "" }, time.Second) {
		t.Errorf("process %d still runs", pid)
	}
}

func TestUnknownNamesFailPlainly(t *testing.T) {
	l, err := newLab(DefaultSite("demo", t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := l.VM("nobody").Exec(ctx, "true"); !errs.Is(err, errs.NotFound) {
		t.Errorf("Exec in an unknown VM = %v", err)
	}
	if _, err := l.VM("vrouter").Exec(ctx, "true"); !errs.Is(err, errs.Precondition) {
		t.Errorf("Exec in a VM that is off = %v", err)
	}
	if err := l.StartVM(ctx, "nobody"); !errs.Is(err, errs.NotFound) {
		t.Errorf("StartVM of an unknown VM = %v", err)
	}
	if err := l.VM("vrouter").FillDisk(ctx, "/srv"); !errs.Is(err, errs.Invalid) {
		t.Errorf("FillDisk of no small disk = %v", err)
	}
	if _, err := l.Namespace("operator").DialContext(ctx, "tcp", "host.test:1"); !errs.Is(err, errs.Invalid) {
		t.Errorf("Dial of a name = %v", err)
	}
}

func TestMainThreadKeepsItsNamespaces(t *testing.T) {
	for range 200 {
		err := onOwnThread(func() error {
			if unix.Gettid() == unix.Getpid() {
				return errs.New(errs.Internal, "ran on the main thread")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
