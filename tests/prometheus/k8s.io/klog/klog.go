// Package klog stands for the first version, which no Debian suite has. Only the discovery of Kubernetes logs with it.
package klog

import "io"

// SetOutputBySeverity does nothing.
func SetOutputBySeverity(string, io.Writer) {}
