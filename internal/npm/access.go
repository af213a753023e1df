package npm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// listPrefix begins the names of access lists of ours: from 2.13 they have no meta that could hold a mark.
const listPrefix = "infractl-"

// AccessList says which addresses may use a host.
type AccessList struct {
	// ID is its number, Name its name.
	ID   int
	Name string
	// Allow are the prefixes that may, sorted; everybody else may not.
	Allow []string
	// Users is the number of proxy hosts that use it.
	Users int
	// Ours says that its name is one of ours.
	Ours bool
	// odd says that it holds more than such a list of ours does.
	odd bool
}

type listReply struct {
	ID      int    `json:"id"`
	Name    string `json:"name"`
	Any     flag   `json:"satisfy_any"`
	Users   int    `json:"proxy_host_count"`
	Items   []any  `json:"items"`
	Clients []struct {
		Address   string `json:"address"`
		Directive string `json:"directive"`
	} `json:"clients"`
}

func (r *listReply) list() AccessList {
	out := AccessList{ID: r.ID, Name: r.Name, Users: r.Users, Ours: strings.HasPrefix(r.Name, listPrefix), odd: bool(r.Any) || len(r.Items) > 0}
	for _, c := range r.Clients {
		if c.Directive == "allow" {
			out.Allow = append(out.Allow, c.Address)
		} else if c.Address != "all" {
			out.odd = true
		}
	}
	slices.Sort(out.Allow)
	return out
}

// ListName is the name of the list of ours that holds exactly these prefixes.
func ListName(allow []string) string {
	sum := sha256.Sum256([]byte(strings.Join(sorted(allow), " ")))
	return listPrefix + hex.EncodeToString(sum[:6])
}

// AccessLists returns all access lists with their prefixes.
func (c *Client) AccessLists(ctx context.Context) ([]AccessList, error) {
	if _, err := c.Probe(ctx); err != nil {
		return nil, err
	}
	var got []listReply
	if err := c.call(ctx, request{method: http.MethodGet, path: "/nginx/access-lists?expand=clients,items", into: &got}); err != nil {
		return nil, errs.Wrap("list access lists", err)
	}
	out := make([]AccessList, 0, len(got))
	for i := range got {
		out = append(out, got[i].list())
	}
	return out, nil
}

// EnsureAccessList makes the list with exactly these prefixes be there and returns its id. A host must never get the id of a list that
// is not there: the API takes it, and the host is open to everybody.
func (c *Client) EnsureAccessList(ctx context.Context, allow []string) (int, error) {
	c.write.Lock()
	defer c.write.Unlock()
	want := sorted(allow)
	id, ok, err := c.accessList(ctx, want)
	if err != nil || ok {
		return id, err
	}
	clients := make([]map[string]string, 0, len(want))
	for _, p := range want {
		clients = append(clients, map[string]string{"address": p, "directive": "allow"})
	}
	body := map[string]any{"name": ListName(want), "satisfy_any": false, "pass_auth": false, "items": []any{}, "clients": clients}
	r := request{method: http.MethodPost, path: "/nginx/access-lists", body: body}
	if id != 0 { // somebody changed it
		r.method, r.path = http.MethodPut, fmt.Sprintf("/nginx/access-lists/%d", id)
	}
	failed := c.call(ctx, r)
	if id, ok, err = c.accessList(ctx, want); err != nil {
		return 0, err
	}
	if !ok {
		if failed == nil {
			failed = errs.New(errs.Internal, "it is not what was asked for")
		}
		return 0, errs.Wrap("make an access list", failed)
	}
	return id, nil
}

// accessList returns the id of the list of that name, 0 without one, and whether it holds just what it should.
func (c *Client) accessList(ctx context.Context, want []string) (id int, right bool, err error) {
	lists, err := c.AccessLists(ctx)
	if err != nil {
		return 0, false, err
	}
	for _, l := range lists {
		if l.Name == ListName(want) {
			return l.ID, !l.odd && slices.Equal(l.Allow, want), nil
		}
	}
	return 0, false, nil
}

// DeleteAccessList deletes a list of ours that no host uses; one that is gone is no error. Errors: Precondition while one does: it
// would be open to everybody.
func (c *Client) DeleteAccessList(ctx context.Context, id int) error {
	c.write.Lock()
	defer c.write.Unlock()
	lists, err := c.AccessLists(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(lists, func(l AccessList) bool { return l.ID == id })
	if i < 0 {
		return nil
	}
	hosts, err := c.list(ctx, proxyHosts)
	if err != nil {
		return err
	}
	switch used := slices.ContainsFunc(hosts, func(h Host) bool { return h.AccessListID == id }); {
	case !lists[i].Ours:
		return errs.New(errs.Denied, "access list %d is none that infractl made", id)
	case used || lists[i].Users > 0:
		return errs.New(errs.Precondition, "access list %d is in use", id).WithHint("take it off the hosts first")
	}
	err = c.call(ctx, request{method: http.MethodDelete, path: fmt.Sprintf("/nginx/access-lists/%d", id)})
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return errs.Wrap("delete an access list", err)
}
