package cmd

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// sshPass is a key made for one login and its certificates, in a private folder that is removed afterwards.
type sshPass struct {
	dir string
	// key is the private key's file, certificates the files of the certificates, one per hop.
	key          string
	certificates []string
}

// newSSHPass makes a key and has the server sign it for each hop.
func newSSHPass(ctx context.Context, conn *grpc.ClientConn, way sshWay, account string) (*sshPass, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, errs.Wrap("make SSH key", err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, errs.Wrap("make SSH key", err)
	}
	var lines []string
	for _, node := range way.Hops {
		answer, err := v1.NewOperatorServiceClient(conn).SignSshKey(ctx, &v1.SignSshKeyRequest{
			PublicKey: string(ssh.MarshalAuthorizedKey(key)), Principal: account, Node: node})
		if err != nil {
			return nil, errs.Wrap("get an SSH certificate", errs.FromGRPC(err))
		}
		lines = append(lines, answer.GetCertificate())
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, errs.Wrap("make SSH key", err)
	}
	p := &sshPass{}
	if err := p.write(pem.EncodeToMemory(block), lines); err != nil {
		p.remove()
		return nil, errs.Wrap("write SSH key", err)
	}
	return p, nil
}

func (p *sshPass) write(key []byte, certificates []string) (err error) {
	parent := os.Getenv("XDG_RUNTIME_DIR") // in memory, and the user's own, where there is one
	if info, serr := os.Stat(parent); parent == "" || serr != nil || !info.IsDir() {
		parent = ""
	}
	if p.dir, err = os.MkdirTemp(parent, "infractl-ssh-"); err != nil {
		return err
	}
	p.key = filepath.Join(p.dir, "key")
	if err := os.WriteFile(p.key, key, 0o600); err != nil {
		return err
	}
	for i, line := range certificates {
		file := filepath.Join(p.dir, "hop"+strconv.Itoa(i)+"-cert.pub")
		if err := os.WriteFile(file, []byte(line+"\n"), 0o600); err != nil {
			return err
		}
		p.certificates = append(p.certificates, file)
	}
	return nil
}

// remove removes the folder.
func (p *sshPass) remove() {
	if p != nil && p.dir != "" {
		_ = os.RemoveAll(p.dir) // the certificates end by themselves in minutes
	}
}

// wayFile is where the way to a node is remembered, for when the server is away.
func (a *app) wayFile(node string) (string, error) {
	f, err := a.folder()
	if err != nil {
		return "", err
	}
	return filepath.Join(f.Dir(), "ssh.d", node+".json"), nil
}

func (a *app) rememberWay(node string, way sshWay) error {
	const op = "remember the way to the node"
	file, err := a.wayFile(node)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(way, "", "  ")
	if err != nil {
		return errs.Wrap(op, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return errs.Wrap(op, err)
	}
	return errs.Wrap(op, certs.WriteFile(file, append(data, '\n'), 0o600))
}

// knownWay returns the way to a node as it was when the server last answered.
func (a *app) knownWay(node string) (sshWay, error) {
	var way sshWay
	if err := certs.ValidateName("node", node); err != nil { // it becomes part of a path
		return way, err
	}
	file, err := a.wayFile(node)
	if err != nil {
		return way, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return way, errs.New(errs.NotFound, "the way to %s is not known", node)
	}
	if err := json.Unmarshal(data, &way); err != nil || len(way.Places) == 0 {
		return way, errs.New(errs.Invalid, "the way to %s cannot be read", node).At(file)
	}
	return way, nil
}

// findProgram finds a program as a shell does.
func findProgram(name string) (string, error) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", errs.New(errs.Precondition, "%s is not installed", name).WithHint("apt install openssh-client")
}

// execProgram replaces this process, so that the terminal, signals and the exit code are the program's own.
func execProgram(argv []string) error {
	path, err := findProgram(argv[0])
	if err != nil {
		return err
	}
	return errs.Wrap("start "+path, syscall.Exec(path, argv, os.Environ()))
}

// runProgram runs a program with this process's terminal and returns its exit code. Somebody has to stay to clean up after it:
// what the terminal sends goes to the program, which decides.
func runProgram(argv []string) (int, error) {
	path, err := findProgram(argv[0])
	if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	child, err := os.StartProcess(path, argv, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Env: os.Environ()})
	if err != nil {
		return 0, errs.Wrap("start "+path, err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-signals:
				if s == syscall.SIGTERM || s == syscall.SIGHUP { // the others come from the terminal, which has told the program too
					_ = child.Signal(s)
				}
			case <-done:
				return
			}
		}
	}()
	state, err := child.Wait()
	if err != nil {
		return 0, errs.Wrap("wait for "+path, err)
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return state.ExitCode(), nil
}
