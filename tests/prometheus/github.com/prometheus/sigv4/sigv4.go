// Package sigv4 stands for signatures of requests to AWS, which this Prometheus does not make.
package sigv4

import (
	"errors"
	"net/http"
)

// SigV4Config has no keys.
type SigV4Config struct{}

// NewSigV4RoundTripper fails.
func NewSigV4RoundTripper(*SigV4Config, http.RoundTripper) (http.RoundTripper, error) {
	return nil, errors.New("this Prometheus is built without sigv4")
}
