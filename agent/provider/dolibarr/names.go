package dolibarr

import (
	"path"
	"regexp"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Labels of everything that belongs to an instance. What exists is told by them, never by a part of a name.
const (
	LabelInstance = "infractl.instance"
	LabelID       = "infractl.id"
	LabelPart     = "infractl.part"
)

// Parts of an instance that are containers.
const (
	partDB   = "db"
	partApp  = "app"
	partCron = "cron"
	partTool = "tool"
)

var (
	idForm     = regexp.MustCompile(`^[a-z0-9]{8}$`)
	nameForm   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	loginForm  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._@-]{0,49}$`)
	secretForm = regexp.MustCompile(`^[A-Za-z0-9]{8,128}$`)
)

// secretNames are the secrets of an instance; what refers to them ends in one of these names.
var secretNames = []string{"db-root", "db", "admin", "unique-id", "cron-key"}

func networkName(id string) string         { return "infractl-" + id }
func containerName(id, part string) string { return "infractl-" + id + "-" + part }
func volumeName(id, part string) string    { return "infractl-" + id + "-" + part }

// instanceNetwork is the network of an instance, and appName the container that answers in it.
func instanceNetwork(inst *v1.InstanceSpec) string {
	if a := inst.GetAdopted(); a != nil {
		return a.GetNetwork()
	}
	return networkName(inst.GetId())
}

func appName(inst *v1.InstanceSpec) string {
	if a := inst.GetAdopted(); a != nil {
		return a.GetAppContainer()
	}
	return containerName(inst.GetId(), partApp)
}

func labels(inst *v1.InstanceSpec, part string) map[string]string {
	return map[string]string{LabelInstance: inst.GetName(), LabelID: inst.GetId(), LabelPart: part}
}

func (p *Provider) folder(id string) string     { return path.Join(p.cfg.Dir, id) }
func (p *Provider) confDir(id string) string    { return path.Join(p.folder(id), "conf") }
func (p *Provider) confFile(id string) string   { return path.Join(p.confDir(id), "conf.php") }
func (p *Provider) secretsDir(id string) string { return path.Join(p.folder(id), "secrets") }
func (p *Provider) recordFile(id string) string { return path.Join(p.folder(id), "applied.json") }

// formerDir has the passwords that the database took before, while others are put in their place.
func (p *Provider) formerDir(id string) string { return path.Join(p.secretsDir(id), "former") }

// webSecretsDir has what the tool reads, owned by the web user.
func (p *Provider) webSecretsDir(id string) string { return path.Join(p.secretsDir(id), "web") }
func (p *Provider) toolDir() string                { return path.Join(p.cfg.Dir, "tool") }
