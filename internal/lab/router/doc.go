// Package router holds end-to-end tests of the Linux router: published ports, masquerading, a reboot, and a tunnel that a laptop on
// the internet side brings up from the text that "infractl vpn peer add" prints.
package router
