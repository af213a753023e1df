//go:build lab

package proxies

import (
	"context"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/inside"
)

func TestProxyOnARealService(t *testing.T) {
	o, done, err := demo.ForTests("proxies")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	defer cancel()
	_, output, err := inside.Run(ctx, o, inside.Tests{Package: "agent/provider/proxy", Run: "TestReal|TestService", Machine: demo.Prod,
		Env: []string{"INFRACTL_VM=1"}, Limit: 4 * time.Minute})
	t.Log(output)
	if err != nil {
		t.Fatal(err)
	}
}
