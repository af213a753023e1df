package client

import (
	"crypto"

	"github.com/infractl/infractl/certs"
)

// KeyAndCSR is a key and the request for its certificate.
type KeyAndCSR struct {
	// Key never leaves this machine.
	Key crypto.Signer
	// CSR is the DER certificate request.
	CSR []byte
}

// NewKey makes a key and its certificate request.
func NewKey() (*KeyAndCSR, error) {
	key, err := certs.NewKey()
	if err != nil {
		return nil, err
	}
	csr, err := certs.MakeCSR(key)
	if err != nil {
		return nil, err
	}
	return &KeyAndCSR{Key: key, CSR: csr}, nil
}
