//go:build lab

package instancetasks

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/inside"
)

const version = "19.0.4"

// image is one that an instance runs on: what makes it, and its name.
type image struct {
	build func(ctx context.Context, l *lab.Lab) (archive string, err error)
	name  string
}

func TestInstancesOnARealEngine(t *testing.T) {
	instances(t, "tasks",
		image{func(ctx context.Context, l *lab.Lab) (string, error) { return l.DolibarrImage(ctx, version) }, "infractl/dolibarr:" + version},
		image{func(ctx context.Context, l *lab.Lab) (string, error) { return l.MariadbImage(ctx) }, "infractl/mariadb:10.11"})
}

// TestInstancesOnOfficialImages has images with the contract of the official ones, which no registry gives us here.
func TestInstancesOnOfficialImages(t *testing.T) {
	const db = "mariadb:10.11"
	instances(t, "official",
		image{func(ctx context.Context, l *lab.Lab) (string, error) { return l.OfficialDolibarr(ctx, version) }, "dolibarr/dolibarr:" + version},
		image{func(ctx context.Context, l *lab.Lab) (string, error) { return l.OfficialMariaDB(ctx, db) }, db})
}

// instances runs the agent's tests inside a machine whose engine has the images.
func instances(t *testing.T, name string, app, db image) {
	o, done, err := demo.ForTests(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	prepare := func(ctx context.Context, site *demo.Site, vm *lab.VM) ([]string, error) {
		front := image{build: func(ctx context.Context, l *lab.Lab) (string, error) { return l.FrontImage(ctx) }}
		for _, i := range []image{app, db, front} {
			archive, err := i.build(ctx, site.Lab)
			if err != nil {
				return nil, err
			}
			if err := load(ctx, vm, archive); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	_, output, err := inside.Run(ctx, o, inside.Tests{Package: "agent/provider/dolibarr", Run: "TestReal", Machine: demo.Prod, Prepare: prepare,
		Env: []string{"INFRACTL_VERSION=" + version, "INFRACTL_APP_IMAGE=" + app.name, "INFRACTL_DB_IMAGE=" + db.name}, Limit: 9 * time.Minute})
	t.Log(output)
	if err != nil {
		t.Fatal(err)
	}
}

func load(ctx context.Context, vm *lab.VM, archive string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	ctx, stop := context.WithTimeout(ctx, 3*time.Minute)
	defer stop()
	result, err := vm.ExecIn(ctx, file, "docker", "load", "-q")
	if err != nil {
		return err
	}
	return result.OK("docker", "load")
}
