// Package strictjson reads JSON that only we write: what it does not know is a fault, and not passed over.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/infractl/infractl/internal/errs"
)

// Unmarshal decodes one value. Unknown fields and anything behind the value are errors.
func Unmarshal(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errs.New(errs.Invalid, "something stands behind the value")
	}
	return nil
}
