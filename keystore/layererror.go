package keystore

import (
	"errors"
	"fmt"

	"github.com/plyfs/plyfs/cipher"
)

// LayerError says which layer's key an error is about.
type LayerError struct {
	Layer cipher.Layer
	Err   error
}

func (e *LayerError) Error() string { return e.Err.Error() }
func (e *LayerError) Unwrap() error { return e.Err }

// twoErrors is what failed in each of the two layers.
type twoErrors [2]*LayerError

func (b twoErrors) Error() string {
	return fmt.Sprintf("%s layer: %v; %s layer: %v", b[0].Layer, b[0], b[1].Layer, b[1])
}

func (b twoErrors) Unwrap() []error { return []error{b[0], b[1]} }

// JoinLayers makes one error of what failed in each layer, which may be nothing.
func JoinLayers(data, infra error) error {
	switch {
	case infra == nil:
		return layerError(cipher.LayerData, data)
	case data == nil:
		return layerError(cipher.LayerInfra, infra)
	}
	return twoErrors{{Layer: cipher.LayerData, Err: data}, {Layer: cipher.LayerInfra, Err: infra}}
}

// LayerErrors returns what err says of each layer, data first; nothing when it is about none.
func LayerErrors(err error) []*LayerError {
	var both twoErrors
	if errors.As(err, &both) {
		return both[:]
	}
	var one *LayerError
	if errors.As(err, &one) {
		return []*LayerError{one}
	}
	return nil
}

// LayerOf returns the layer that an error is about; 0 when it is about none, or about both.
func LayerOf(err error) cipher.Layer {
	if of := LayerErrors(err); len(of) == 1 {
		return of[0].Layer
	}
	return 0
}

// layerError marks an error as one of a layer.
func layerError(l cipher.Layer, err error) error {
	if err == nil {
		return nil
	}
	return &LayerError{Layer: l, Err: err}
}
