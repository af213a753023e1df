package npm

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// looks is how often a host that was just written is read until nginx has tested it.
const looks = 12

// Ensure makes a proxy host be as wanted: found by exact name, or made. What nginx refuses is put back as it was, or deleted, and the
// error has nginx's text. Errors: Exists for a name of somebody else's host, which is never touched.
func (c *Client) Ensure(ctx context.Context, want Host) (Host, error) {
	c.write.Lock()
	defer c.write.Unlock()
	v, err := c.Probe(ctx)
	if err != nil {
		return Host{}, err
	}
	if err := want.check(v); err != nil {
		return Host{}, err
	}
	have, err := c.search(ctx, &want)
	if err != nil {
		return Host{}, err
	}
	if have == nil {
		return c.create(ctx, v, want)
	}
	return c.update(ctx, v, *have, want)
}

func (c *Client) search(ctx context.Context, want *Host) (*Host, error) {
	list, err := c.list(ctx, proxyHosts)
	if err != nil {
		return nil, err
	}
	return find(list, want)
}

func (c *Client) create(ctx context.Context, v Version, want Host) (Host, error) {
	var got hostReply
	err := c.call(ctx, request{method: http.MethodPost, path: "/nginx/" + string(proxyHosts), body: want.body(v, true), into: &got})
	if err == nil {
		return c.settle(ctx, v, got.ID, nil, want)
	}
	// After any error the row may be there: look before anything is tried again.
	if ctx.Err() != nil {
		return Host{}, err
	}
	have, serr := c.search(ctx, &want)
	switch {
	case errs.Is(serr, errs.Exists):
		return Host{}, serr
	case serr != nil || have == nil:
		if errs.Is(err, errs.Exists) {
			return Host{}, c.inOtherList(ctx, &want, err)
		}
		return Host{}, errs.Wrap("make proxy host "+want.Domains[0], err)
	}
	c.log.Warn("the request failed and the host is there all the same", "host", want.Domains[0], "id", have.ID)
	out, uerr := c.update(ctx, v, *have, want)
	if uerr != nil {
		_ = c.remove(ctx, have.ID) // it was not there before
		return Host{}, errs.Wrap("make proxy host "+want.Domains[0], err)
	}
	return out, nil
}

// inOtherList says where a name that is in use stands.
func (c *Client) inOtherList(ctx context.Context, want *Host, err error) error {
	taken, terr := c.Taken(ctx)
	for _, d := range want.Domains {
		if where := taken[d]; terr == nil && where != "" {
			return errs.New(errs.Exists, "%s stands in the %s of Nginx Proxy Manager", d, where).
				WithHint("remove it there, or take the name out of the site")
		}
	}
	return errs.Wrap("make proxy host "+want.Domains[0], err)
}

func (c *Client) update(ctx context.Context, v Version, have, want Host) (Host, error) {
	broken := have.Online != nil && !*have.Online
	if !have.same(&want) || broken {
		if err := c.put(ctx, v, have.ID, want); err != nil {
			if statusOf(err) >= 500 && ctx.Err() == nil {
				_ = c.put(ctx, v, have.ID, have) // the row was changed all the same; nginx was not
			}
			return Host{}, errs.Wrap("change proxy host "+want.Domains[0], err)
		}
	}
	if !have.Enabled {
		if err := c.turn(ctx, have.ID, "enable"); err != nil {
			return Host{}, err
		}
	}
	if have.same(&want) && have.Enabled && !broken && have.Online != nil {
		return have, nil
	}
	if broken {
		return c.settle(ctx, v, have.ID, nil, want)
	}
	return c.settle(ctx, v, have.ID, &have, want)
}

// put changes a host.
func (c *Client) put(ctx context.Context, v Version, id int, want Host) error {
	path := fmt.Sprintf("/nginx/%s/%d", proxyHosts, id)
	return c.call(ctx, request{method: http.MethodPut, path: path, body: want.body(v, false)})
}

// settle reads a host until nginx has tested it. When nginx refuses, the former values are put back; before is nil for a new host,
// which is deleted.
func (c *Client) settle(ctx context.Context, v Version, id int, before *Host, want Host) (Host, error) {
	var got Host
	for range looks {
		var err error
		if got, err = c.Host(ctx, id); err != nil {
			return got, errs.Wrap("read proxy host "+want.Domains[0]+" again", err)
		}
		if got.Online != nil {
			break
		}
		if err := c.pause(ctx, c.cfg.Pause); err != nil {
			return got, err
		}
	}
	switch {
	case got.Online == nil:
		return got, errs.New(errs.Internal, "Nginx Proxy Manager never said whether nginx took %s", want.Domains[0]).
			WithHint("look at the log of its container")
	case *got.Online && got.same(&want) && got.Enabled:
		return got, nil
	case *got.Online:
		return got, errs.New(errs.Conflict, "proxy host %s is not what was asked for; somebody else changes it", want.Domains[0]).
			WithHint("let only infractl change hosts that have its mark")
	}
	refused := errs.New(errs.Invalid, "nginx refuses proxy host %s: %s", want.Domains[0], got.Problem).
		WithHint("the former state is back; correct the site")
	var err error
	if before == nil {
		err = c.remove(ctx, id)
	} else {
		err = c.put(ctx, v, id, *before)
	}
	if err != nil {
		return got, errs.Join(refused, errs.Wrap("put the former state back", err))
	}
	return got, refused
}

// turn enables or disables a host; one that is so already is no error.
func (c *Client) turn(ctx context.Context, id int, verb string) error {
	err := c.call(ctx, request{method: http.MethodPost, path: fmt.Sprintf("/nginx/%s/%d/%s", proxyHosts, id, verb)})
	if statusOf(err) == http.StatusBadRequest && strings.HasPrefix(messageOf(err), "Host is already ") {
		return nil
	}
	return errs.Wrap(verb+" proxy host", err)
}

// Disable takes a host of ours out of nginx; clients then see a TLS error. One that is disabled is no error.
func (c *Client) Disable(ctx context.Context, id int) error {
	c.write.Lock()
	defer c.write.Unlock()
	h, err := c.Host(ctx, id)
	if err != nil {
		return err
	}
	if !h.Ours {
		return errs.New(errs.Denied, "proxy host %d is none that infractl made", id)
	}
	return c.turn(ctx, id, "disable")
}

// Delete deletes a proxy host of ours; one that is gone is no error. Its certificate stays. Errors: Denied for one of others.
func (c *Client) Delete(ctx context.Context, id int) error {
	c.write.Lock()
	defer c.write.Unlock()
	h, err := c.Host(ctx, id)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if !h.Ours {
		return errs.New(errs.Denied, "proxy host %d is none that infractl made", id).WithHint("remove it in Nginx Proxy Manager")
	}
	return errs.Wrap("delete proxy host "+h.Domains[0], c.remove(ctx, id))
}

func (c *Client) remove(ctx context.Context, id int) error {
	err := c.call(ctx, request{method: http.MethodDelete, path: fmt.Sprintf("/nginx/%s/%d", proxyHosts, id)})
	if err == nil || errs.Is(err, errs.NotFound) {
		return nil
	}
	if _, gone := c.Host(ctx, id); errs.Is(gone, errs.NotFound) {
		return nil // the row went, and nginx is broken by something else
	}
	return err
}
