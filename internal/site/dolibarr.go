package site

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/compose"
	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// InstanceSubnetBits is the prefix length of an instance's network: room for database, application, cron, front, a one-shot container
// and the gateway.
const InstanceSubnetBits = 28

// What the limits of an instance may be; cores are counted in thousandths.
const (
	MinInstanceMemory = 256 << 20
	MaxInstanceMemory = 64 << 30
	MinInstanceCPUs   = 100
	MaxInstanceCPUs   = 64_000
	MinInstancePIDs   = 64
	MaxInstancePIDs   = 4096
	MinInstanceDisk   = 100 << 20
	MaxInstanceDisk   = 8 << 40
)

// ownImages is what the names of images begin with that no registry has: `infractl image build` makes them.
const ownImages = "infractl/"

var (
	versionForm = regexp.MustCompile(`^(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})$`)
	cpusForm    = regexp.MustCompile(`^[0-9]{1,3}(\.[0-9]{1,3})?$`)
)

// InstanceDefaults are what an instance gets that nobody said otherwise.
type InstanceDefaults struct {
	// Version is empty where the site names none.
	Version, Timezone, Language string
	MemoryBytes, DiskBytes      uint64
	MilliCPUs, PIDs             uint32
}

// dolibarrPart is what host specs follow from of the dolibarr section.
type dolibarrPart struct {
	managed       bool
	prod, preprod []string
	pool          netip.Prefix
	app, db       string
	front         string
	defaults      InstanceDefaults
}

// IsDolibarrVersion reports whether the text is a version of Dolibarr, X.Y.Z.
func IsDolibarrVersion(s string) bool { return versionForm.MatchString(s) }

// InstanceNodes returns the nodes that carry instances.
func (s *Site) InstanceNodes(preprod bool) []string {
	if preprod {
		return slices.Clone(s.dolibarr.preprod)
	}
	return slices.Clone(s.dolibarr.prod)
}

// InstancePool returns the prefix that the networks of instances are taken from; invalid without a dolibarr section.
func (s *Site) InstancePool() netip.Prefix { return s.dolibarr.pool }

// InstanceDefaults returns the defaults of an instance.
func (s *Site) InstanceDefaults() InstanceDefaults { return s.dolibarr.defaults }

// InstanceImages returns the references of the images that an instance of a version has.
func (s *Site) InstanceImages(version string) (app, db string) {
	app = s.dolibarr.app
	if !tagged(app) {
		app += ":" + version
	}
	return app, s.dolibarr.db
}

// InstanceDomain returns the default name of an instance, "" where the site has no domain for them.
func (s *Site) InstanceDomain(name string) string {
	if s.proxyDomain == "" {
		return ""
	}
	return name + "." + s.proxyDomain
}

// ProxyNode returns the node of the reverse proxy, "" without one.
func (s *Site) ProxyNode() string { return s.proxyNode }

// ProxyNames returns the names that proxy.hosts gives to others than instances.
func (s *Site) ProxyNames() []string {
	out := make([]string, 0, len(s.proxyTargets))
	for _, t := range s.proxyTargets {
		out = append(out, strings.ToLower(t.name))
	}
	return out
}

// Image says what runs for a reference; MissingImage tells whether it can.
func (s *Site) Image(ref string, res Resources) *v1.StackImage { return s.stackImage(ref, res) }

// MissingImage reports whether an image is nowhere to be had: no archive was pushed, and no registry has images of that name.
func MissingImage(image *v1.StackImage) bool {
	return image.GetArchiveDigest() == "" && strings.HasPrefix(image.GetUse(), ownImages)
}

// FrontImage is the image of the fronts.
func (s *Site) FrontImage(res Resources) *v1.StackImage { return s.stackImage(s.dolibarr.front, res) }

// SecretName is the name in the server's store of a secret of an instance.
func SecretName(id, name string) string { return "instance/" + id + "/" + name }

func tagged(image string) bool {
	return strings.Contains(image[strings.LastIndexByte(image, '/')+1:], ":") || strings.Contains(image, "@")
}

func (l *loader) dolibarr(f *sitefile.Dolibarr) {
	part := &l.site.dolibarr
	part.managed = true
	part.prod = l.carriers(RoleProd, f.Prod)
	part.preprod = l.carriers(RolePreprod, f.Preprod)
	l.site.instanceNodes = slices.Concat(part.prod, part.preprod)
	l.pool(f)
	part.app, part.db, part.front = "infractl/dolibarr", "infractl/mariadb:10.11", "infractl/front:1"
	if i := f.Images; i != nil {
		l.image("dolibarr/images/app", i.App, &part.app, false)
		l.image("dolibarr/images/db", i.DB, &part.db, true)
		l.image("dolibarr/images/front", i.Front, &part.front, true)
	}
	part.defaults = InstanceDefaults{Timezone: l.site.Timezone, Language: "fr",
		MemoryBytes: 512 << 20, DiskBytes: 10 << 30, MilliCPUs: 1000, PIDs: 256}
	if f.Defaults != nil {
		l.instanceDefaults(f.Defaults, &part.defaults)
	}
}

// carriers checks the nodes of a role that carry instances.
func (l *loader) carriers(role string, nodes []string) []string {
	var out []string
	for i, name := range nodes {
		path := yamltree.Join("dolibarr", role, strconv.Itoa(i))
		if !l.nodeRef(path, name) {
			continue
		}
		if n, _ := l.site.Node(name); n.Role != role {
			l.fail(path, "", "node %s has the role %s, not %s", name, n.Role, role)
		}
		if slices.Index(nodes, name) != i {
			l.fail(path, "", "node %s is given twice", name)
			continue
		}
		out = append(out, name)
	}
	return out
}

// pool checks the prefix of the instances' networks. Docker's own pools run out at about thirty networks, and know nothing of ours.
func (l *loader) pool(f *sitefile.Dolibarr) {
	const path = "dolibarr/pool"
	pool := netip.MustParsePrefix("10.210.0.0/16")
	if l.pos.Has(path) {
		if pool = f.Pool.Prefix; !pool.IsValid() {
			return
		}
		if !pool.Addr().Is4() || pool.Bits() < 8 || pool.Bits() > InstanceSubnetBits-2 {
			l.fail(path, "such as 10.210.0.0/16", "dolibarr.pool: %s is no IPv4 prefix of 8 to %d bits", pool, InstanceSubnetBits-2)
			return
		}
	}
	for _, n := range l.site.Networks {
		if n.Prefix.IsValid() && n.Prefix.Overlaps(pool) {
			l.fail(l.orSection(path), "choose a prefix that the site uses for nothing else",
				"dolibarr.pool: %s overlaps the network %s (%s)", pool, n.Name, n.Prefix)
		}
	}
	for _, h := range l.site.Hosts {
		if slices.ContainsFunc(h.Addresses(), pool.Contains) {
			l.fail(l.orSection(path), "choose another prefix", "dolibarr.pool: %s holds the address of the host %s", pool, h.Name)
		}
	}
	for _, a := range slices.Concat(l.site.DNS.Forwarders, validAddrs(l.site.publicAddress)) {
		if pool.Contains(a) {
			l.fail(l.orSection(path), "choose another prefix", "dolibarr.pool: %s holds the address %s, which the site uses", pool, a)
		}
	}
	l.site.dolibarr.pool = pool.Masked()
}

// orSection is a path of the section, or the section where that is left out.
func (l *loader) orSection(path string) string {
	if l.pos.Has(path) {
		return path
	}
	return "dolibarr"
}

// image checks the reference of an image.
func (l *loader) image(path, given string, into *string, withTag bool) {
	if !l.pos.Has(path) {
		return
	}
	*into = given
	what := strings.ReplaceAll(path, "/", ".")
	ref := given
	if !tagged(ref) {
		if withTag {
			l.fail(path, "write it like mariadb:10.11.10", "%s: %q has no tag, so nobody knows what would run", what, given)
			return
		}
		ref += ":1"
	}
	if _, ok := compose.Familiar(ref); !ok || len(given) > 200 || strings.HasSuffix(given, ":latest") {
		l.fail(path, "write it like infractl/dolibarr or mariadb:10.11.10, never latest", "%s: %q is no image", what, given)
	}
}

func (l *loader) instanceDefaults(f *sitefile.DolibarrDefaults, d *InstanceDefaults) {
	const section = "dolibarr/defaults/"
	if l.pos.Has(section + "version") {
		if d.Version = f.Version; !IsDolibarrVersion(f.Version) {
			l.fail(section+"version", "write all three numbers, such as 19.0.4", "dolibarr.defaults.version: %q is no version of Dolibarr", f.Version)
		}
	}
	if l.pos.Has(section + "timezone") {
		d.Timezone = f.Timezone
		l.timezone(section+"timezone", f.Timezone)
	}
	if l.pos.Has(section + "language") {
		d.Language = f.Language
		l.oneOf(section+"language", "dolibarr.defaults.language", f.Language, sitefile.Words("DolibarrDefaults.Language")...)
	}
	if l.pos.Has(section + "memory") {
		d.MemoryBytes = uint64(f.Memory)
		l.within(section+"memory", d.MemoryBytes, MinInstanceMemory, MaxInstanceMemory)
	}
	if l.pos.Has(section + "disk") {
		d.DiskBytes = uint64(f.Disk)
		l.within(section+"disk", d.DiskBytes, MinInstanceDisk, MaxInstanceDisk)
	}
	if l.pos.Has(section + "pids") {
		d.PIDs = f.PIDs
		l.within(section+"pids", uint64(f.PIDs), MinInstancePIDs, MaxInstancePIDs)
	}
	if l.pos.Has(section + "cpus") {
		milli, ok := ParseMilliCPUs(f.CPUs)
		if d.MilliCPUs = milli; !ok {
			l.fail(section+"cpus", "0.1 to 64, such as 1 or 0.5", "dolibarr.defaults.cpus: %q is no number of cores", f.CPUs)
		}
	}
}

// ParseMilliCPUs reads a number of cores, such as 0.5; ok says whether an instance may have it.
func ParseMilliCPUs(s string) (milli uint32, ok bool) {
	if !cpusForm.MatchString(s) {
		return 0, false
	}
	whole, part, _ := strings.Cut(s, ".")
	n, err := strconv.ParseUint(whole+(part + "000")[:3], 10, 32)
	return uint32(n), err == nil && n >= MinInstanceCPUs && n <= MaxInstanceCPUs
}

// instancesOn derives the instances of a node, nil for nodes that carry none. The front comes with the first instance, so that a host
// without any needs no image.
func (s *Site) instancesOn(n *Node, res Resources) *v1.DolibarrSpec {
	if !slices.Contains(s.instanceNodes, n.Name) {
		return nil
	}
	spec := &v1.DolibarrSpec{}
	for i := range res.Instances {
		if inst := &res.Instances[i]; inst.Node == n.Name {
			spec.Instances = append(spec.Instances, s.InstanceSpec(inst, res))
		}
	}
	if len(spec.Instances) == 0 {
		return spec
	}
	slices.SortFunc(spec.Instances, func(a, b *v1.InstanceSpec) int { return cmp.Compare(a.GetName(), b.GetName()) })
	spec.Front = &v1.FrontSpec{ListenAddresses: addrTexts(validAddrs(n.main, n.main6)), Port: FrontPort, Image: s.FrontImage(res)}
	if p, ok := s.Node(s.proxyNode); ok {
		// What the proxy says of a request counts only when it comes from there.
		spec.Front.TrustedProxies = []string{s.sourceTowards(p, n.main).String()}
	}
	return spec
}

// InstanceSpec is what a host is told of an instance.
func (s *Site) InstanceSpec(inst *Instance, res Resources) *v1.InstanceSpec {
	spec := &v1.InstanceSpec{
		Name: inst.Name, Id: inst.ID, Mode: inst.Mode, Version: inst.Version,
		Domains:  s.InstanceDomains(inst),
		Limits:   &v1.InstanceLimits{MemoryBytes: inst.MemoryBytes, MilliCpus: inst.MilliCPUs, Pids: inst.PIDs, DiskBytes: inst.DiskBytes},
		Timezone: inst.Timezone, Language: inst.Language, Cron: inst.Cron, AdminLogin: inst.AdminLogin, Adopted: inst.Adopted,
	}
	if inst.Adopted == nil {
		spec.AppImage, spec.DbImage = s.stackImage(inst.AppImage, res), s.stackImage(inst.DBImage, res)
	}
	if inst.Subnet.IsValid() {
		spec.Subnet = inst.Subnet.String()
	}
	for name, version := range inst.Secrets {
		spec.Secrets = append(spec.Secrets, &v1.SecretRef{Name: SecretName(inst.ID, name), Version: version})
	}
	slices.SortFunc(spec.Secrets, func(a, b *v1.SecretRef) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return spec
}

// InstanceDomains are the names that an instance answers to, each once, the default one first.
func (s *Site) InstanceDomains(inst *Instance) []string {
	var out []string
	if isLabel(inst.Name) && s.proxyDomain != "" {
		out = append(out, s.InstanceDomain(inst.Name))
	}
	for _, d := range inst.Domains {
		if d = strings.ToLower(d); !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return slices.DeleteFunc(out, func(name string) bool { return !zone.IsHostName(name) })
}

// shown reports whether the world may reach an instance by its names: while it is made it is neither at the proxy nor in the DNS, so
// that nobody meets an installer.
func (inst *Instance) shown() bool {
	switch inst.Mode {
	case v1.InstanceMode_INSTANCE_MODE_RUNNING, v1.InstanceMode_INSTANCE_MODE_SUSPENDED, v1.InstanceMode_INSTANCE_MODE_ARCHIVED:
		return true
	}
	return false
}

// DomainProblem says why a name cannot be an instance's, "" when it can: it must be a name outside of the inside domain that nothing
// else of the site has.
func (s *Site) DomainProblem(name string) string {
	switch {
	case !zone.IsHostName(name) || !strings.Contains(name, ".") || name != strings.ToLower(name):
		return "is no domain name"
	case zone.Within(name, s.Domain):
		return "lies in the inside domain " + s.Domain
	case s.proxyDomain != "" && zone.Within(name, s.proxyDomain):
		return "lies in " + s.proxyDomain + ", where each instance has its own name"
	case slices.Contains(s.ProxyNames(), name):
		return "is a name of proxy.hosts"
	case name == s.PublicDomain || name == s.publicServer():
		return "is the site's own"
	}
	return ""
}

// NameProblem says why an instance cannot have this name on this site, "" when it can.
func (s *Site) NameProblem(name string) string {
	if _, ok := s.Node(name); ok {
		return "is the name of a node"
	}
	if _, ok := s.Host(name); ok {
		return "is the name of a host"
	}
	if slices.ContainsFunc(s.DNS.Aliases, func(a Alias) bool { return a.Name == name }) {
		return "is an alias"
	}
	if domain := s.InstanceDomain(name); domain != "" && slices.Contains(s.ProxyNames(), domain) {
		return fmt.Sprintf("would be %s, which is a name of proxy.hosts", domain)
	}
	return ""
}

// CertificateOf says in words where the TLS certificate of a name of an instance comes from.
func (s *Site) CertificateOf(name string) string {
	switch {
	case !s.proxyPart.managed:
		return "none: the proxy is not managed"
	case s.proxyPart.provider == "internal":
		return "of the site's own authority"
	case s.DNS.AcmeKey != "" && zone.Within(name, s.proxyDomain):
		return "wildcard of " + s.proxyDomain
	}
	return "its own, by ACME"
}
