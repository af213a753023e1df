package cmd

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/infractl/infractl/internal/errs"
)

func addIdentity(c *cobra.Command, identity *string) {
	c.Flags().StringVarP(identity, "identity", "i", "",
		"your private SSH key (default: $INFRACTL_SSH_IDENTITY, else the keys of ssh-agent, else ~/.ssh/id_ed25519 and id_rsa)")
	must(c.MarkFlagFilename("identity"))
}

// identityFile is the key that was named, here or in the environment; empty: none was.
func identityFile(flag string) string { return orElse(flag, os.Getenv("INFRACTL_SSH_IDENTITY")) }

// sshKeys are the operator's own SSH keys.
type sshKeys struct {
	signers []ssh.Signer
	// notes say what was passed over and why.
	notes []string
	agent net.Conn
}

func (k *sshKeys) close() {
	if k.agent != nil {
		k.agent.Close()
	}
}

// loadSSHKeys returns the key in the named file, else those of ssh-agent, else those in ~/.ssh that need no passphrase.
// Having none is Precondition.
func loadSSHKeys(flag string) (*sshKeys, error) {
	k := &sshKeys{}
	if file := identityFile(flag); file != "" {
		if err := k.addFile(file); err != nil {
			return nil, err
		}
	} else {
		k.addAgent(os.Getenv("SSH_AUTH_SOCK"))
		if home, err := os.UserHomeDir(); err == nil && len(k.signers) == 0 {
			for _, name := range []string{"id_ed25519", "id_rsa"} {
				if err := k.addFile(filepath.Join(home, ".ssh", name)); err != nil && !errs.Is(err, errs.NotFound) {
					k.notes = append(k.notes, "note: "+err.Error())
				}
			}
		}
	}
	if len(k.signers) == 0 {
		k.close()
		none := errs.New(errs.Precondition, "you have no SSH key that can be used")
		return nil, none.WithHint("name one: --identity FILE; or load it: ssh-add")
	}
	return k, nil
}

// addFile adds the key in a file. A missing one is NotFound, an encrypted one Precondition.
func (k *sshKeys) addFile(file string) error {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return errs.New(errs.NotFound, "no such SSH key").At(file)
	}
	if err != nil {
		return errs.New(errs.Invalid, "the SSH key cannot be read: %w", cause(err)).At(file)
	}
	signer, err := ssh.ParsePrivateKey(data)
	var encrypted *ssh.PassphraseMissingError
	if errors.As(err, &encrypted) {
		return errs.New(errs.Precondition, "the SSH key has a passphrase and is passed over").At(file).WithHint("load it: ssh-add %s", file)
	}
	if err != nil { // the cause may quote the key
		return errs.New(errs.Invalid, "this is no private SSH key").At(file)
	}
	k.signers = append(k.signers, signer)
	return nil
}

// addAgent adds the keys of ssh-agent; without one there are none.
func (k *sshKeys) addAgent(socket string) {
	if socket == "" {
		return
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		k.notes = append(k.notes, "note: ssh-agent does not answer: "+err.Error())
		return
	}
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		conn.Close()
		k.notes = append(k.notes, "note: ssh-agent does not answer: "+err.Error())
		return
	}
	k.agent, k.signers = conn, signers
}
