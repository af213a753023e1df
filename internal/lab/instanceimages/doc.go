// Package instanceimages tries the images of instances on a real engine: that of a virtual machine of the lab.
package instanceimages
