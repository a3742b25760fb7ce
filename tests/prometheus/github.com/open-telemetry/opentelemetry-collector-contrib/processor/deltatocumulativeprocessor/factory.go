// Package deltatocumulativeprocessor stands for the Collector's, which no Debian suite has. Prometheus uses it with
// --enable-feature=otlp-deltatocumulative only.
package deltatocumulativeprocessor

import "go.opentelemetry.io/collector/processor"

// NewFactory panics.
func NewFactory() processor.Factory {
	panic("this Prometheus is built without the feature otlp-deltatocumulative")
}
