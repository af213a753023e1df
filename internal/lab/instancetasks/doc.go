// Package instancetasks tries the agent's work on Dolibarr instances on a real engine: that of a virtual machine of the lab.
//
// The tests are those of agent/provider/dolibarr that need an engine; they are built here and run inside the machine.
package instancetasks
