// Package semconv has the attributes that Prometheus takes from this version of the conventions, which the Collector's core no longer has.
package semconv

// Attributes that identify a service.
const (
	AttributeServiceName       = "service.name"
	AttributeServiceNamespace  = "service.namespace"
	AttributeServiceInstanceID = "service.instance.id"
)
