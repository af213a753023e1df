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

func TestInstancesOnARealEngine(t *testing.T) {
	o, done, err := demo.ForTests("tasks")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	_, output, err := inside.Run(ctx, o, inside.Tests{Package: "agent/provider/dolibarr", Run: "TestReal", Machine: demo.Prod,
		Env: []string{"INFRACTL_VERSION=" + version}, Prepare: loadImages, Limit: 9 * time.Minute})
	t.Log(output)
	if err != nil {
		t.Fatal(err)
	}
}

func loadImages(ctx context.Context, site *demo.Site, vm *lab.VM) ([]string, error) {
	for _, image := range []func(context.Context) (string, error){
		func(ctx context.Context) (string, error) { return site.Lab.DolibarrImage(ctx, version) }, site.Lab.MariadbImage, site.Lab.FrontImage,
	} {
		archive, err := image(ctx)
		if err != nil {
			return nil, err
		}
		if err := load(ctx, vm, archive); err != nil {
			return nil, err
		}
	}
	return nil, nil
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
