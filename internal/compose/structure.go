package compose

import (
	"slices"
	"strings"
)

// structure refuses keys that mean more than a stack may do. What is not known here is refused as well: a newer version of the
// library must not bring a way around by itself.
func (r *reader) structure() {
	for _, key := range r.tree.below("") {
		switch {
		case key == "version":
			r.warn("version", "remove the line", "version means nothing any more")
		case key == "include":
			r.failKey(key, "copy what it names into this file", "include is refused: a stack is one file, so that it can be read as one")
		case strings.HasPrefix(key, "x-"), slices.Contains([]string{"name", "services", "networks", "volumes", "secrets", "configs"}, key):
		default:
			r.failKey(key, "", "%s is refused: infractl does not know what it would start", key)
		}
	}
	if !r.tree.has("services") {
		r.report(Error, place{1, 1}, "", "the file has no services")
	}
	for _, name := range r.tree.below("services") {
		at := "services/" + name
		for _, key := range r.tree.below(at) {
			if reason, hint, bad := refusedKey(key); bad {
				r.failKey(at+"/"+key, hint, "%s is refused: %s", key, reason)
			}
		}
	}
}

// refusedKey says why a key of a service is refused, and what to do instead.
func refusedKey(key string) (reason, hint string, bad bool) {
	switch key {
	case "build", "dockerfile":
		return "images are built elsewhere, so that every host runs the same bytes", "name an image; infractl image push takes one without a registry", true
	case "extends":
		return "a stack is one file, so that it can be read as one", "copy the service, or use a YAML anchor", true
	case "privileged":
		return "such a container is the host", "name the one capability that it needs in cap_add", true
	case "devices", "device_cgroup_rules", "gpus":
		return "a container with a device can do what the host can do to it", "run what needs a device on the host", true
	case "volumes_from":
		return "it hides what is mounted where", "name the volume in volumes", true
	case "cgroup", "cgroup_parent", "isolation", "runtime", "credential_spec", "use_api_socket", "userns_mode", "uts":
		return "it changes how the engine keeps containers apart", "remove it", true
	case "provider":
		return "it runs a program on the host", "remove it", true
	case "post_start", "pre_stop", "pre_start":
		return "hooks may run with more rights than the container", "put it into the image or the command", true
	case "label_file":
		return "it is one more file to look for", "write labels", true
	case "develop", "models", "net", "log_driver", "log_opt":
		return "it has no meaning on a server", "remove it", true
	}
	if strings.HasPrefix(key, "x-") || slices.Contains(knownKeys(), key) {
		return "", "", false
	}
	return "infractl does not know it", "remove it", true
}

// knownKeys are the keys of a service that are used as they are, or looked at by value.
func knownKeys() []string {
	return strings.Fields(`annotations attach blkio_config cap_add cap_drop command configs container_name cpu_count cpu_percent cpu_period
		cpu_quota cpu_rt_period cpu_rt_runtime cpus cpuset cpu_shares depends_on deploy dns dns_opt dns_search domainname entrypoint
		env_file environment expose external_links extra_hosts group_add healthcheck hostname image init ipc labels links logging
		mac_address mem_limit mem_reservation mem_swappiness memswap_limit network_mode networks oom_kill_disable oom_score_adj pid
		pids_limit platform ports profiles pull_policy pull_refresh_after read_only restart scale secrets security_opt shm_size
		stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits user volumes working_dir`)
}
