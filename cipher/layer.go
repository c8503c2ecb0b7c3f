package cipher

import "errors"

// LayersOf returns the layers whose checks an error says failed, data first;
// none where that is not known. Where the layers lie one in the other, the outer
// one is checked first, and the inner one only if that holds.
func LayersOf(err error) []Layer {
	switch {
	case errors.Is(err, errLayer1):
		return []Layer{LayerData}
	case errors.Is(err, errLayer2):
		return []Layer{LayerInfra}
	case errors.Is(err, errBoth):
		return []Layer{LayerData, LayerInfra}
	}
	return nil
}
