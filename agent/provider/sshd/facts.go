package sshd

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/errs"
)

// Facts returns where sshd listens now (ports and addresses, each once, sorted) and the host's public keys in
// authorized_keys form without comment. It reads /proc and /etc/ssh; only where systemd listens for sshd it asks systemd.
func (p *Provider) Facts(ctx context.Context) (ports []uint32, addresses []string, hostKeys []string, err error) {
	list, err := p.listening(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, l := range list {
		ports = append(ports, uint32(l.Port()))
		addresses = append(addresses, l.Addr().String())
	}
	slices.Sort(ports)
	slices.Sort(addresses)
	files, err := p.host.Glob("/etc/ssh/ssh_host_*_key.pub")
	if err != nil {
		return nil, nil, nil, errs.Wrap("list host keys", err)
	}
	for _, file := range files {
		data, err := p.host.ReadFile(file)
		if err != nil {
			return nil, nil, nil, errs.Wrap("read host key", err)
		}
		if key, _, _, _, err := ssh.ParseAuthorizedKey(data); err == nil {
			hostKeys = append(hostKeys, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))
		}
	}
	return slices.Compact(ports), slices.Compact(addresses), hostKeys, nil
}

// Widened returns the old ways in that our drop-in still holds open, such as "sshd listens on 0.0.0.0 port 22".
func (p *Provider) Widened(context.Context) []string {
	data, err := p.host.ReadFile(dropIn)
	if err != nil {
		return nil
	}
	_, old, found := strings.Cut(string(data), oldMarker+"\n")
	if !found {
		return nil
	}
	var list []listener
	for line := range strings.Lines(old) {
		key, rest := keyword(line)
		if key != "listenaddress" {
			break
		}
		if more, err := parseListeners([]string{strings.TrimSpace(rest)}); err == nil {
			list = append(list, more...)
		}
	}
	var result []string
	for _, text := range ports(list) {
		result = append(result, "sshd "+text)
	}
	return result
}

// listening finds the sockets of sshd's listener by its process.
func (p *Provider) listening(ctx context.Context) ([]listener, error) {
	open, err := p.sockets()
	if err != nil {
		return nil, err
	}
	inodes, err := p.sshdInodes()
	if err != nil {
		return nil, err
	}
	var list []listener
	for _, s := range open {
		if inodes[s.inode] {
			list = append(list, s.listener)
		}
	}
	if len(list) > 0 {
		return list, nil
	}
	u, err := p.units(ctx)
	return u.listen, err
}

// sshdInodes are the sockets that listeners of sshd hold. A session is a child of one and may listen too, for X11.
func (p *Provider) sshdInodes() (map[string]bool, error) {
	files, err := p.host.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, errs.Wrap("list processes", err)
	}
	parents := map[string]string{} // of processes called sshd
	for _, file := range files {
		data, err := p.host.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		// 123 (sshd) S 1 ...
		pid, rest, _ := strings.Cut(string(data), " ")
		if after, ok := strings.CutPrefix(rest, "(sshd) "); ok {
			if f := strings.Fields(after); len(f) > 1 {
				parents[pid] = f[1]
			}
		}
	}
	inodes := map[string]bool{}
	for pid, parent := range parents {
		if _, child := parents[parent]; child {
			continue
		}
		links, err := p.host.Glob("/proc/" + pid + "/fd/*")
		if err != nil {
			return nil, errs.Wrap("list sshd's files", err)
		}
		for _, link := range links {
			if _, err := strconv.Atoi(path.Base(link)); err != nil {
				continue
			}
			f, err := p.host.Stat(link)
			if err != nil {
				continue
			}
			if inode, ok := strings.CutPrefix(string(f.Data), "socket:["); ok {
				inodes[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	return inodes, nil
}
