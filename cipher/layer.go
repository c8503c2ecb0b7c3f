package cipher

import "errors"

// LayerOf returns the layer whose check an error says failed; 0 where that is
// both, or not known.
func LayerOf(err error) Layer {
	switch {
	case errors.Is(err, errLayer1):
		return LayerData
	case errors.Is(err, errLayer2):
		return LayerInfra
	}
	return 0
}
