// Package proxies tries the reverse proxy on a real service: Debian's caddy under systemd, in a virtual machine of the lab.
package proxies
