// Package azuread stands for tokens of Azure, whose SDK no Debian suite has.
package azuread

import (
	"errors"
	"net/http"
)

// AzureADConfig has no keys.
type AzureADConfig struct{}

// NewAzureADRoundTripper fails.
func NewAzureADRoundTripper(*AzureADConfig, http.RoundTripper) (http.RoundTripper, error) {
	return nil, errors.New("this Prometheus is built without azuread")
}
