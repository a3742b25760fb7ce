package prometheusremotewrite

import "github.com/prometheus/otlptranslator"

// normalizeLabel is what the translator's NormalizeLabel was before its release 1.0, which is Debian's.
func normalizeLabel(label string) string {
	var namer otlptranslator.LabelNamer
	name, err := namer.Build(label)
	if err != nil {
		return ""
	}
	return name
}
