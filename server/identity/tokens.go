package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/jointoken"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

const (
	defaultTTL = time.Hour
	minTTL     = time.Minute
	// maxTokens is how many tokens there may be; those that nobody can use any more are removed after a while.
	maxTokens = 5000
)

// Tokens is the TokenService.
type Tokens struct {
	v1.UnimplementedTokenServiceServer
	cfg Config
}

// NewTokens returns the service.
func NewTokens(cfg Config) *Tokens { return &Tokens{cfg: cfg} }

// tokenRoles are the roles that a token may be for.
func tokenRoles() []string {
	return []string{"router", "relay", "services", "supervision", "prod", "preprod", "probe"}
}

// CreateToken implements TokenService.
func (t *Tokens) CreateToken(ctx context.Context, req *v1.CreateTokenRequest) (*v1.CreateTokenResponse, error) {
	ttl, err := t.check(req)
	if err != nil {
		return nil, err
	}
	if req.GetPending() {
		text, err := t.join("", "").Encode()
		return &v1.CreateTokenResponse{Join: text}, err
	}
	names, err := t.cfg.Fleet.Tokens.List(ctx, store.ListOptions{NamesOnly: true})
	if err != nil {
		return nil, err
	}
	if len(names) >= maxTokens {
		return nil, errs.New(errs.Exhausted, "there are %d tokens already", len(names))
	}
	raw := make([]byte, 5+32)
	if _, err := rand.Read(raw); err != nil {
		return nil, errs.Wrap("make join token", err)
	}
	id, secret := hex.EncodeToString(raw[:5]), base64.RawURLEncoding.EncodeToString(raw[5:])
	text, err := t.join(id, secret).Encode()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(secret))
	now := t.cfg.Clock.Now()
	rec := fleet.Token{ID: id, SecretHash: hex.EncodeToString(sum[:]), Node: req.GetNode(), Role: req.GetRole(), Created: now,
		Expires: now.Add(ttl), Operator: callerName(ctx)}
	if _, err := t.cfg.Fleet.Tokens.Put(ctx, id, rec, store.Absent); err != nil {
		return nil, err
	}
	return &v1.CreateTokenResponse{Token: tokenMessage(rec), Join: text}, nil
}

// join says where this site is; without id and secret it lets a machine ask, and no more.
func (t *Tokens) join(id, secret string) *jointoken.Token {
	_, enrolment := t.cfg.Addresses()
	return &jointoken.Token{Addresses: enrolment, Fingerprint: t.cfg.Authority.Fingerprint(), Site: t.cfg.Authority.Site(),
		ID: id, Secret: jointoken.NewSecret(secret)}
}

func (t *Tokens) check(req *v1.CreateTokenRequest) (time.Duration, error) {
	ttl := defaultTTL
	if req.GetTtl() != nil {
		ttl = req.GetTtl().AsDuration()
	}
	switch {
	case req.GetPending() && (req.GetNode() != "" || req.GetRole() != "" || req.GetTtl() != nil):
		return 0, errs.New(errs.Invalid, "a text for the pending lane is for no node and no role, and has no end")
	case req.GetPending():
		return 0, nil
	case (req.GetNode() == "") == (req.GetRole() == ""):
		return 0, errs.New(errs.Invalid, "a token is for exactly one of node and role")
	case ttl < minTTL || ttl > fleet.MaxTokenLife:
		return 0, errs.New(errs.Invalid, "a token lives %s to %s, not %s", minTTL, fleet.MaxTokenLife, ttl)
	case req.GetNode() != "":
		return ttl, certs.ValidateName("node", req.GetNode())
	case !slices.Contains(tokenRoles(), req.GetRole()):
		return 0, errs.New(errs.Invalid, "%.40q is not a role", req.GetRole()).WithHint("use one of %v", tokenRoles())
	}
	return ttl, nil
}

// ListTokens implements TokenService.
func (t *Tokens) ListTokens(ctx context.Context, _ *v1.ListTokensRequest) (*v1.ListTokensResponse, error) {
	items, err := t.cfg.Fleet.Tokens.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(items, func(a, b store.Item[fleet.Token]) int { return b.Value.Created.Compare(a.Value.Created) })
	resp := &v1.ListTokensResponse{}
	for _, it := range items {
		resp.Tokens = append(resp.Tokens, tokenMessage(it.Value))
	}
	return resp, nil
}

// RevokeToken implements TokenService.
func (t *Tokens) RevokeToken(ctx context.Context, req *v1.RevokeTokenRequest) (*v1.RevokeTokenResponse, error) {
	_, err := t.cfg.Fleet.Tokens.Update(ctx, req.GetId(), func(tok *fleet.Token) error {
		if tok.UsedBy != "" {
			return errs.New(errs.Precondition, "the token was used by %s", tok.UsedBy).
				WithHint("to withdraw what it gave: infractl node revoke %s", tok.UsedBy)
		}
		tok.Revoked = true
		return nil
	})
	if errs.Is(err, errs.NotFound) {
		err = errs.New(errs.NotFound, "there is no token %.64q", req.GetId()).WithHint("infractl token list")
	}
	return &v1.RevokeTokenResponse{}, err
}

func tokenMessage(t fleet.Token) *v1.Token {
	return &v1.Token{Id: t.ID, Node: t.Node, Role: t.Role, Created: timestamppb.New(t.Created),
		Expires: timestamppb.New(t.Expires), UsedBy: t.UsedBy, Revoked: t.Revoked, Operator: t.Operator}
}
