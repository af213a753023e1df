package sshd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// effective is what sshd -T prints: lower-case keyword to its values, one per line.
type effective map[string][]string

func parseEffective(out []byte) effective {
	e := effective{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if key != "" {
			e[key] = append(e[key], strings.TrimSpace(value))
		}
	}
	return e
}

// first is the value of a keyword that has one.
func (e effective) first(key string) string {
	if len(e[key]) == 0 {
		return ""
	}
	return e[key][0]
}

func (e effective) knows(key string) bool { return len(e[key]) > 0 }

// effective asks sshd what a configuration file amounts to.
func (p *Provider) effective(ctx context.Context, file string, args ...string) (effective, error) {
	argv := append([]string{"/usr/sbin/sshd", "-T"}, args...)
	if file != mainFile {
		argv = append(argv, "-f", file)
	}
	return p.ask(ctx, host.Cmd{Argv: argv})
}

func (p *Provider) ask(ctx context.Context, cmd host.Cmd) (effective, error) {
	// A service that is not running takes its folder with it, and then sshd refuses to say anything.
	if !p.host.Exists(privsepDir) {
		if err := p.host.Mkdir(privsepDir, 0o755); err != nil {
			return nil, err
		}
	}
	out, err := p.host.RunCmd(ctx, cmd)
	if err != nil {
		return nil, errs.Wrap("ask sshd for its configuration", err)
	}
	return parseEffective(out.Stdout), nil
}

// effectiveOfOthers is for a host on which sshd refuses its files. It asks what they amount to without our drop-in, which is
// about to be written anew. Where they are refused then too, the fault is not ours to mend.
func (p *Provider) effectiveOfOthers(ctx context.Context, refused error) (effective, error) {
	if ctx.Err() != nil {
		return nil, refused
	}
	files, _, err := p.foreignFiles()
	if err != nil {
		return nil, err
	}
	text, last := "", ""
	for _, f := range files {
		if f.Path == mainFile {
			last = withoutIncludes(string(f.Data))
		} else {
			text += `Include "` + f.Path + "\"\n"
		}
	}
	text += last
	now, err := p.ask(ctx, host.Cmd{Argv: []string{"/usr/sbin/sshd", "-T", "-f", "/dev/stdin"}, Stdin: []byte(text)})
	if err != nil {
		return nil, errs.New(errs.Precondition, "sshd refuses its own files: %w", refused).At("/etc/ssh").
			WithHint("sshd -t names the line; mend or remove that file")
	}
	return now, nil
}

// effectiveFor asks what holds for one user who comes from where users come from.
func (p *Provider) effectiveFor(ctx context.Context, file, user string, spec *v1.SshdSpec) (effective, error) {
	from := "127.0.0.1"
	if len(spec.GetAllowFrom()) > 0 {
		prefix, err := parsePrefix(spec.GetAllowFrom()[0])
		if err != nil {
			return nil, err
		}
		from = prefix.Addr().String()
	}
	local := "127.0.0.1"
	if len(spec.GetListenAddresses()) > 0 {
		local = spec.GetListenAddresses()[0]
	}
	return p.effective(ctx, file, "-C", fmt.Sprintf("user=%s,host=%s,addr=%s,laddr=%s,lport=%d", user, from, from, local, spec.GetPort()))
}

func parsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

// notWinning is the error of a configuration that sshd does not follow.
func notWinning(wrong []string) error {
	return errs.New(errs.Precondition, "sshd would not run as wanted: %s", strings.Join(wrong, "; ")).At(mainFile).
		WithHint("another file decides: look for Match blocks, for other Include lines, for files that sort before %s, "+
			"and for options in /etc/default/ssh", dropIn)
}

// algorithms are lists by keyword.
type algorithms map[string][]string

// wantedAlgorithms are those worth offering, best first; a host offers the part of them that it knows.
func wantedAlgorithms() algorithms {
	return algorithms{
		"KexAlgorithms": {"mlkem768x25519-sha256", "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com",
			"curve25519-sha256", "curve25519-sha256@libssh.org", "diffie-hellman-group16-sha512", "diffie-hellman-group18-sha512"},
		"Ciphers": {"chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes128-gcm@openssh.com",
			"aes256-ctr", "aes192-ctr", "aes128-ctr"},
		"MACs": {"hmac-sha2-512-etm@openssh.com", "hmac-sha2-256-etm@openssh.com", "umac-128-etm@openssh.com"},
		"HostKeyAlgorithms": {"ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com", "rsa-sha2-512", "rsa-sha2-512-cert-v01@openssh.com",
			"rsa-sha2-256", "rsa-sha2-256-cert-v01@openssh.com"},
	}
}

// algorithms returns the wanted ones that the host's OpenSSH knows. It asks once per version of the program.
func (p *Provider) algorithms(ctx context.Context, now effective) (algorithms, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	info, err := os.Stat(p.host.Path("/usr/bin/ssh"))
	if err != nil {
		return filter(func(key string) ([]string, error) { // no client: what sshd offers now is all that is sure
			return strings.Split(now.first(strings.ToLower(key)), ","), nil
		})
	}
	stamp := info.ModTime().String() + " " + strconv.FormatInt(info.Size(), 10)
	if p.stamp == stamp {
		return p.supported, nil
	}
	found, err := filter(func(key string) ([]string, error) {
		out, err := p.host.Run(ctx, "ssh", "-Q", key)
		return strings.Fields(string(out.Stdout)), errs.Wrap("ask OpenSSH for its algorithms", err)
	})
	if err == nil {
		p.supported, p.stamp = found, stamp
	}
	return found, err
}

// Warm asks OpenSSH beforehand for what the first plan needs to know, so that nobody waits for it then. A failure shows in that
// plan.
func (p *Provider) Warm(ctx context.Context) {
	if now, err := p.effective(ctx, mainFile); err == nil {
		_, _ = p.algorithms(ctx, now)
	}
}

func filter(known func(key string) ([]string, error)) (algorithms, error) {
	result := algorithms{}
	for key, list := range wantedAlgorithms() {
		have, err := known(key)
		if err != nil {
			return nil, err
		}
		for _, name := range list {
			if slices.Contains(have, name) {
				result[key] = append(result[key], name)
			}
		}
		if len(result[key]) == 0 {
			return nil, errs.New(errs.Precondition, "this OpenSSH knows none of the wanted %s", key).
				WithHint("upgrade openssh-server to 8.9 or later")
		}
	}
	return result, nil
}
