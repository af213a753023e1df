package demo

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
)

// greet answers each connection with the machine's name.
const greet = `import socketserver, sys, threading, socket
class H(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(socket.gethostname().encode())
socketserver.ThreadingTCPServer.allow_reuse_address = True
for s in [socketserver.ThreadingTCPServer(("0.0.0.0", int(p)), H) for p in sys.argv[1:]]:
    threading.Thread(target=s.serve_forever).start()
`

// knock connects to all of "address port" on stdin at once and prints those that open, with what the other side says.
const knock = `import asyncio, sys
async def one(address, port):
    try:
        r, w = await asyncio.wait_for(asyncio.open_connection(address, int(port)), 1.5)
    except (OSError, asyncio.TimeoutError):
        return
    try:
        said = await asyncio.wait_for(r.read(64), 1.5)
    except (OSError, asyncio.TimeoutError):
        said = b""
    w.close()
    print(address, port, said.decode(errors="replace"))
async def main():
    await asyncio.gather(*(one(*line.split()) for line in sys.stdin))
asyncio.run(main())
`

// place is where something runs: a VM, or a laptop in one.
type place interface {
	Exec(ctx context.Context, argv ...string) (lab.Result, error)
}

// serveGreetings listens on ports of a VM until it goes.
func (s *Site) serveGreetings(ctx context.Context, vm *lab.VM, ports ...string) error {
	if err := vm.WriteFile(ctx, "/run/greet.py", 0o600, []byte(greet)); err != nil {
		return err
	}
	if _, err := vm.Must(ctx, append([]string{"systemd-run", "--quiet", "--collect", "python3", "/run/greet.py"}, ports...)...); err != nil {
		return err
	}
	var local []string
	for _, port := range ports {
		local = append(local, "127.0.0.1 "+port)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if open, err := knockAt(ctx, vm, vm, local); err != nil || len(open) == len(ports) {
			return err
		}
		if time.Now().After(deadline) {
			return errs.New(errs.Timeout, "nobody listens on %s", vm.Name())
		}
	}
}

// knockAt connects to each of the doors ("address port") from a place, whose files are those of vm, and returns those that open with
// what is said there.
func knockAt(ctx context.Context, vm *lab.VM, from place, doors []string) ([]string, error) {
	if err := vm.WriteFile(ctx, "/run/doors", 0o600, []byte(strings.Join(doors, "\n")+"\n")); err != nil {
		return nil, err
	}
	if err := vm.WriteFile(ctx, "/run/knock.py", 0o600, []byte(knock)); err != nil {
		return nil, err
	}
	r, err := from.Exec(ctx, "sh", "-c", "ulimit -n 4096; exec python3 /run/knock.py </run/doors")
	if err == nil {
		err = r.OK("knock")
	}
	open := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	return slices.DeleteFunc(open, func(line string) bool { return line == "" }), err
}
