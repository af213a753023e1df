package identity

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/sshca"
	"github.com/infractl/infractl/server/store"
)

// ActionSSHCertificate is what audit calls the making of an SSH certificate; agents report logins as "ssh.login".
const ActionSSHCertificate = "ssh.certificate"

// Certificates that one operator may ask for: two for each login through the relay.
const (
	signRate  = rate.Limit(1)
	signBurst = 60
)

// SignSshKey implements OperatorService. The entry in the audit log is written before the certificate is made: there is none
// without.
func (o *Operators) SignSshKey(ctx context.Context, req *v1.SignSshKeyRequest) (*v1.SignSshKeyResponse, error) {
	caller := access.CallerFrom(ctx)
	entry := store.AuditEntry{Actor: caller.Actor, Role: string(caller.Identity.Role), Source: caller.Address,
		Action: ActionSSHCertificate, Node: req.GetNode(), Target: req.GetPrincipal() + "@" + req.GetNode()}
	resp, err := o.signSSHKey(ctx, caller, req, entry)
	if err != nil {
		entry.Result, entry.Message = string(errs.CodeOf(err)), err.Error()
		o.cfg.Recorder.Write(ctx, entry)
	}
	return resp, err
}

func (o *Operators) signSSHKey(ctx context.Context, caller access.Caller, req *v1.SignSshKeyRequest, entry store.AuditEntry) (*v1.SignSshKeyResponse, error) {
	if !o.maySign(caller.Identity.Name) {
		return nil, errs.New(errs.Exhausted, "too many SSH certificates at once").WithHint("try again in a minute")
	}
	key, err := sshca.ParseKey(req.GetPublicKey())
	if err != nil {
		return nil, err
	}
	s, err := o.cfg.CurrentSite(ctx)
	if err != nil {
		return nil, err
	}
	order, err := sshOrder(s, caller, req)
	if err != nil {
		return nil, err
	}
	if order.Serial, err = o.cfg.SSH.Serial(ctx); err != nil {
		return nil, err
	}
	entry.Result = "ok"
	entry.Message = fmt.Sprintf("serial %d, until %s, key %s", order.Serial,
		o.cfg.Clock.Now().Add(sshca.Life).UTC().Format(time.RFC3339), ssh.FingerprintSHA256(key))
	if len(order.From) > 0 {
		entry.Message += ", from " + strings.Join(order.From, ",")
	}
	number, err := o.cfg.Recorder.Append(ctx, entry)
	if err != nil {
		return nil, errs.Wrap("write the audit log", err)
	}
	order.Key, order.KeyID = key, fmt.Sprintf("infractl %s %d", caller.Actor, number)
	text, notAfter, err := o.cfg.SSH.Sign(order)
	if err != nil {
		return nil, err
	}
	return &v1.SignSshKeyResponse{Certificate: text, NotAfter: timestamppb.New(notAfter)}, nil
}

// sshOrder decides what a certificate may be good for. An account of the operator's own name is the only one that this operator
// may use; without one, any of ssh.users.
func sshOrder(s *site.Site, caller access.Caller, req *v1.SignSshKeyRequest) (sshca.Request, error) {
	order := sshca.Request{Principal: req.GetPrincipal()}
	target, ok := s.Node(req.GetNode())
	if !ok {
		return order, errs.New(errs.NotFound, "the site has no node %.64q", req.GetNode()).WithHint("infractl node list")
	}
	users, own := s.SSH.Users, caller.Identity.Name
	switch {
	case !slices.Contains(users, order.Principal):
		return order, errs.New(errs.Denied, "%.40q is not one of ssh.users", order.Principal).WithHint("accounts: %s", strings.Join(users, ", "))
	case slices.Contains(users, own) && order.Principal != own:
		return order, errs.New(errs.Denied, "%s has an account of that name and may use no other", caller.Actor).
			WithHint("infractl ssh %s --user %s", target.Name, own)
	}
	relay := s.Relay()
	if relay == nil {
		return order, nil
	}
	if target.Name != relay.Name {
		// It goes through the relay, so that is where the login comes from.
		for _, a := range relay.Addresses() {
			order.From = append(order.From, a.String())
		}
		return order, nil
	}
	order.Forward = true
	order.From = callerAddress(s, relay, caller.Address)
	return order, nil
}

// callerAddress is where a login to the relay comes from, if it can be told: the call came to the same machine, from another
// one, by the same family of addresses.
func callerAddress(s *site.Site, relay *site.Node, address string) []string {
	from, err := netip.ParseAddr(address)
	if err != nil || !slices.Contains(s.Server.Nodes, relay.Name) {
		return nil
	}
	from = from.Unmap()
	if from.IsLoopback() || from.Is4() != relay.MainAddress().Is4() || slices.Contains(relay.Addresses(), from) {
		return nil
	}
	return []string{from.String()}
}

func (o *Operators) maySign(operator string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.signs == nil {
		o.signs = make(map[string]*rate.Limiter)
	}
	one := o.signs[operator]
	if one == nil {
		one = rate.NewLimiter(signRate, signBurst)
		o.signs[operator] = one
	}
	return one.Allow()
}
