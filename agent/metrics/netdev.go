package metrics

import (
	"os"
	"strconv"
	"strings"
)

// traffic is what one interface has carried.
type traffic struct {
	receivedBytes, receivedPackets, receivedErrors, receivedDropped float64
	sentBytes, sentPackets, sentErrors, sentDropped                 float64
}

// traffic reads the interfaces of a process' network, without loopback. At most limit of them.
func (r *reader) traffic(file string, limit int) map[string]traffic {
	out := map[string]traffic{}
	for _, line := range r.lines(file) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(rest)
		if !ok || len(f) < 12 || name == "lo" || len(out) >= limit {
			continue
		}
		out[name] = traffic{
			receivedBytes: parse(f[0]), receivedPackets: parse(f[1]), receivedErrors: parse(f[2]), receivedDropped: parse(f[3]),
			sentBytes: parse(f[8]), sentPackets: parse(f[9]), sentErrors: parse(f[10]), sentDropped: parse(f[11])}
	}
	return out
}

// hostNetwork reports whether a process uses the host's network, whose traffic is not its own; also when it is not known.
func (r *reader) hostNetwork(pid int) bool {
	its, err := os.Readlink(r.host.Path("/proc/" + strconv.Itoa(pid) + "/ns/net"))
	return err != nil || its == r.ownNet
}

// containerTraffic is that of a container; nil for one that has none of its own.
func (r *reader) containerTraffic(k *known) map[string]traffic {
	if k.hostNetwork {
		return nil
	}
	return r.traffic("/proc/"+strconv.Itoa(k.pid)+"/net/dev", maxInterfaces)
}
