package lab

import (
	"context"
	"net"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/internal/errs"
)

// onOwnThread runs fn on a thread that ends with it, so that fn may move the thread to other namespaces.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread can't be ended, and /proc/self shows its namespaces: it is held until another one is done.
			done <- onOwnThread(fn)
			runtime.UnlockOSThread()
			return
		}
		done <- fn() // never unlocked: the runtime ends the thread with the goroutine
	}()
	return <-done
}

// inThread runs fn on a thread of its own that has joined a network namespace. Sockets that fn opens stay in that namespace
// and keep it alive until they are closed.
func inThread(file string, fn func() error) error {
	return onOwnThread(func() error {
		fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return errs.New(errs.Precondition, "the network namespace is gone: %w", err).At(file)
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return errs.New(errs.Internal, "enter the network namespace: %w", err).At(file)
		}
		return fn()
	})
}

// dialIn connects from inside a namespace. The address is an IP address with a port: names would be looked up outside.
func dialIn(ctx context.Context, file, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, errs.New(errs.Invalid, "dial %s: %w", address, err)
	}
	var conn net.Conn
	err := inThread(file, func() error {
		var d net.Dialer
		var err error
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func listenIn(ctx context.Context, file, network, address string) (net.Listener, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, errs.New(errs.Invalid, "listen on %s: %w", address, err)
	}
	var listener net.Listener
	err := inThread(file, func() error {
		var c net.ListenConfig
		var err error
		listener, err = c.Listen(ctx, network, address)
		return err
	})
	return listener, err
}

// DialContext connects from this light host to an IP address and port, without a process of its own. It fits
// grpc.WithContextDialer, http.Transport and the like.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return dialIn(ctx, n.file, network, address)
}

// Listen listens on an IP address and port of this light host.
func (n *Namespace) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return listenIn(ctx, n.file, network, address)
}

// DialContext connects from the VM to an IP address and port, without a process in the VM: the quickest probe of a flow.
func (v *VM) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	file, err := v.NetnsPath()
	if err != nil {
		return nil, err
	}
	return dialIn(ctx, file, network, address)
}

// Listen listens on an IP address and port of the VM. Close it before the VM reboots: it holds the old network.
func (v *VM) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	file, err := v.NetnsPath()
	if err != nil {
		return nil, err
	}
	return listenIn(ctx, file, network, address)
}

// NetnsPath returns the file that stands for the VM's network namespace until its next reboot.
func (v *VM) NetnsPath() (string, error) {
	if v.index < 0 {
		return "", v.usable()
	}
	pid := v.Pid()
	if pid == 0 {
		return "", errs.New(errs.Precondition, "the VM is off").At(v.spec.Name)
	}
	return procPath(pid, "ns/net"), nil
}
