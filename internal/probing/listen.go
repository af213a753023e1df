package probing

import (
	"bytes"
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Limits of a ListenTask.
const (
	MaxListen = 120 * time.Second
	MaxPorts  = 1024 // of each protocol
)

// Listen opens the ports of a task that are free, calls listening once all of them are open, answers for the duration, and
// closes them. TCP connections are accepted and closed; what a probe sends by UDP is sent back, marked as an answer.
func (p *Prober) Listen(parent context.Context, task *v1.ListenTask, listening func()) (*v1.ListenResult, error) {
	if len(task.GetTcpPorts()) > MaxPorts || len(task.GetUdpPorts()) > MaxPorts {
		return nil, errs.New(errs.Invalid, "more than %d ports", MaxPorts)
	}
	for _, port := range slices.Concat(task.GetTcpPorts(), task.GetUdpPorts()) {
		if port == 0 || port > 65535 {
			return nil, errs.New(errs.Invalid, "port %d is not 1 to 65535", port)
		}
	}
	ctx, cancel := context.WithTimeout(parent, min(max(task.GetDuration().AsDuration(), 0), MaxListen))
	defer cancel()
	result := &v1.ListenResult{}
	var group sync.WaitGroup
	var closers []interface{ Close() error }
	for _, port := range task.GetTcpPorts() {
		listener, err := net.Listen("tcp", ":"+strconv.Itoa(int(port)))
		if err != nil {
			continue // taken: its owner answers
		}
		result.TcpPorts = append(result.TcpPorts, port)
		closers = append(closers, listener)
		group.Go(func() { accept(listener) })
	}
	addresses := ownAddresses()
	for _, port := range task.GetUdpPorts() {
		conns := listenUDP(addresses, port)
		if len(conns) > 0 {
			result.UdpPorts = append(result.UdpPorts, port)
		}
		for _, conn := range conns {
			closers = append(closers, conn)
			group.Go(func() { echo(conn, port) })
		}
	}
	listening()
	<-ctx.Done()
	for _, c := range closers {
		c.Close()
	}
	group.Wait()
	return result, parent.Err()
}

// ownAddresses are the host's addresses, each once.
func ownAddresses() []net.IP {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []net.IP
	for _, a := range list {
		ipnet, ok := a.(*net.IPNet)
		// Two interfaces may have one address; it can be opened once only.
		if ok && !ipnet.IP.IsLinkLocalUnicast() && !slices.ContainsFunc(out, ipnet.IP.Equal) {
			out = append(out, ipnet.IP)
		}
	}
	return out
}

// listenUDP opens a port on each address by itself: an answer must come from the address that was asked, and a socket for
// all addresses would answer from the one that the route prefers. A port that is taken on any address that others can reach
// is left to its owner.
func listenUDP(addresses []net.IP, port uint32) []net.PacketConn {
	var conns []net.PacketConn
	for _, ip := range addresses {
		conn, err := net.ListenPacket("udp", net.JoinHostPort(ip.String(), strconv.Itoa(int(port))))
		if err != nil && ip.IsLoopback() {
			continue
		}
		if err != nil {
			for _, c := range conns {
				c.Close()
			}
			return nil
		}
		conns = append(conns, conn)
	}
	return conns
}

func accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}

func echo(conn net.PacketConn, port uint32) {
	buffer := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		if toAnswer(buffer[:n], port) {
			_, _ = conn.WriteTo(buffer[:n], from) // a lost answer is asked for again
		}
	}
}

// toAnswer turns what a probe sends to a port into its answer, in place. An answer is never longer than the question and is
// never answered itself, so that a forged sender can neither amplify nor make two listeners talk for ever.
func toAnswer(message []byte, port uint32) bool {
	switch {
	case bytes.HasPrefix(message, []byte(question)):
		copy(message, answer)
	case port == 53 && len(message) >= 12 && message[2]&0x80 == 0:
		message[2] |= 0x80
	case port == 123 && len(message) >= 48 && message[0]&7 == 3:
		message[0]++
	default:
		return false
	}
	return true
}
