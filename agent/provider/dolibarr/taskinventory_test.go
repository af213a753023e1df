package dolibarr

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/agent/docker"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (r *taskRig) inventoryLines() []string {
	r.t.Helper()
	out := r.do(&v1.InstanceTask{Action: &v1.InstanceTask_Inventory{Inventory: &v1.InventoryInstances{}}})
	var lines []string
	for _, f := range out.GetFound() {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s id=%s of=%s %s %s", f.GetKind(), f.GetName(), f.GetId(), f.GetInstance(), f.GetVersion(), f.GetState())))
	}
	slices.Sort(lines)
	return lines
}

func TestInventoryFindsOursAndForeign(t *testing.T) {
	r := newTaskRig(t)
	r.do(installTask(testInstance(acmeID, "acme"), false))
	must(t, r.frontApply(t.Context(), frontSpec()))
	r.foreignClient("dup", "'16.0.3'")
	r.foreignClient("dup_ont", "15; rm")
	r.engine.containers["x"] = &testContainer{Container: docker.Container{ID: "x", Name: "infra_Nginx", State: "running"}}
	r.engine.volumes["portainer_data"] = docker.Volume{Name: "portainer_data"}
	r.engine.volumes[strings.Repeat("ab", 32)] = docker.Volume{Name: strings.Repeat("ab", 32)}
	r.engine.volumes["dup_shared"] = docker.Volume{Name: "dup_shared"} // dup's by its name, and of two clients
	for _, id := range []string{"dupdolibarr", "dup_ontdolibarr"} {
		r.engine.containers[id].Mounts = []docker.Mount{{Volume: "dup_shared", Target: "/x"}}
	}
	want := []string{
		"container dup_dolibarr id= of=dup  running", "container dup_mariadb id= of=dup  running",
		"container dup_ont_dolibarr id= of=dup_ont  running", "container dup_ont_mariadb id= of=dup_ont  running",
		"container infractl-aaaaaaaa-db id=aaaaaaaa of=acme  running",
		"folder /var/lib/infractl/instances/aaaaaaaa id=aaaaaaaa of=acme",
		"folder /working_dir/clients/dup id= of=dup 16.0.3", "folder /working_dir/clients/dup_ont id= of=dup_ont",
		"front infractl-front id= of=  running",
		"network dup_network id= of=dup", "network dup_ont_network id= of=dup_ont", "network infractl-aaaaaaaa id=aaaaaaaa of=acme",
		"volume dup_data id= of=dup", "volume dup_ont_data id= of=dup_ont",
		"volume infractl-aaaaaaaa-custom id=aaaaaaaa of=acme", "volume infractl-aaaaaaaa-data id=aaaaaaaa of=acme",
		"volume infractl-aaaaaaaa-documents id=aaaaaaaa of=acme",
	}
	slices.Sort(want)
	if d := cmp.Diff(want, r.inventoryLines()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	out := r.do(&v1.InstanceTask{Action: &v1.InstanceTask_Inventory{Inventory: &v1.InventoryInstances{}}})
	for _, f := range out.GetFound() {
		if f.GetKind() == "network" && f.GetId() == acmeID && f.GetDetails()["subnet"] != "10.210.0.16/28" {
			t.Errorf("subnet %q", f.GetDetails()["subnet"])
		}
		if strings.Contains(f.String(), "secret-of-env") {
			t.Errorf("a secret of an .env is passed on: %v", f)
		}
	}
}

// foreignClient is what the original scripts make.
func (r *taskRig) foreignClient(name, version string) {
	for _, part := range []string{"dolibarr", "mariadb"} {
		id := name + part
		c := &testContainer{Container: docker.Container{ID: id, Name: name + "_" + part, State: "running", Networks: []string{name + "_network"}}}
		if part == "mariadb" {
			c.Mounts = []docker.Mount{{Volume: name + "_data", Target: "/data"}, {Volume: strings.Repeat("ab", 32), Target: "/nameless"}}
			c.spec.Mounts = c.Mounts[:1]
		}
		r.engine.containers[id] = c
	}
	r.engine.networks[name+"_network"] = docker.Network{Name: name + "_network", Subnet: "172.20.0.0/16"}
	r.engine.volumes[name+"_data"] = docker.Volume{Name: name + "_data", Path: "/volumes/" + name + "_data"}
	_, err := r.host.WriteFile("/working_dir/clients/"+name+"/.env", []byte("NOM_CLIENT="+name+"\nDOLI_DB_PASSWORD='secret-of-env'\nDOLI_VERSION="+version+"\n"), 0o644)
	must(r.t, err)
}
