{{- define "flowtap.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "flowtap.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := include "flowtap.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "flowtap.selectorLabels" -}}
app.kubernetes.io/name: {{ include "flowtap.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "flowtap.labels" -}}
{{ include "flowtap.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "flowtap.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "flowtap.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "flowtap.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* Whether a pipeline has a component of the type: "yes" or nothing. In: list of root, stage, type. */}}
{{- define "flowtap.uses" -}}
{{- $stage := index . 1 }}
{{- $type := index . 2 }}
{{- $found := "" }}
{{- $service := default dict (index . 0).Values.config.service }}
{{- range $pipeline := default dict $service.pipelines }}
{{- range $id := get (default dict $pipeline) $stage }}
{{- if eq $type (first (splitList "/" $id)) }}
{{- $found = "yes" }}
{{- end }}
{{- end }}
{{- end }}
{{- $found }}
{{- end }}

{{/* Whether flowtap watches the cluster: "yes" or nothing. */}}
{{- define "flowtap.watches" -}}
{{- $service := default dict .Values.config.service }}
{{- $kubernetes := default dict $service.kubernetes }}
{{- if ne "false" (toString (get $kubernetes "enabled")) }}yes{{ end }}
{{- end }}

{{/* The config: what the values say, and the addresses to listen on, which the pod's ports must agree with. */}}
{{- define "flowtap.config" -}}
{{- $listeners := dict "service" (dict
      "admin" (dict "endpoint" (printf "%s:%v" (ternary "127.0.0.1" .Values.listenAddress .Values.hostNetwork) .Values.ports.admin))
      "telemetry" (dict "metrics" (dict "endpoint" (printf "%s:%v" .Values.listenAddress .Values.ports.telemetry)))) }}
{{- if include "flowtap.uses" (list . "exporters" "prometheus") }}
{{- $_ := set $listeners "exporters" (dict "prometheus" (dict "endpoint" (printf "%s:%v" .Values.listenAddress .Values.ports.metrics))) }}
{{- end }}
{{- $config := deepCopy .Values.config }}
{{- if .Values.rdma.enabled }}
{{- if not .Values.hostNetwork }}
{{- fail "rdma.enabled: needs hostNetwork, as a pod's /sys has the RDMA devices of its own network namespace only" }}
{{- end }}
{{- $receivers := default dict $config.receivers }}
{{- $_ := set $receivers "rdma" (mergeOverwrite (dict "devices" .Values.rdma.devices) (default dict $receivers.rdma)) }}
{{- $_ := set $config "receivers" $receivers }}
{{- $pipelines := default dict (default dict $config.service).pipelines }}
{{- range $id, $pipeline := $pipelines }}
{{- if and (eq "metrics" (first (splitList "/" $id))) (not (has "rdma" $pipeline.receivers)) }}
{{- $_ := set $pipeline "receivers" (append $pipeline.receivers "rdma") }}
{{- end }}
{{- end }}
{{- end }}
{{- $service := default dict $config.service }}
{{- $exporters := default dict $config.exporters }}
{{- if hasKey (default dict (get $exporters "prometheus")) "endpoint" }}
{{- fail "config.exporters.prometheus.endpoint: set listenAddress and ports.metrics instead, so that the pod's ports agree" }}
{{- end }}
{{- if hasKey (default dict $service.admin) "endpoint" }}
{{- fail "config.service.admin.endpoint: set ports.admin instead, so that the probes agree" }}
{{- end }}
{{- if hasKey (default dict (default dict $service.telemetry).metrics) "endpoint" }}
{{- fail "config.service.telemetry.metrics.endpoint: set listenAddress and ports.telemetry instead, so that the pod's ports agree" }}
{{- end }}
{{- toYaml (mergeOverwrite $config $listeners) }}
{{- end }}

{{/* Two endpoints of a monitor. In: dict with root and the monitor's values. */}}
{{- define "flowtap.endpoints" -}}
{{- $monitor := .monitor }}
{{- range $port := ternary (list "metrics" "telemetry") (list "telemetry") (eq "yes" (include "flowtap.uses" (list .root "exporters" "prometheus"))) }}
- port: {{ $port }}
  interval: {{ $monitor.interval }}
  scrapeTimeout: {{ $monitor.scrapeTimeout }}
  relabelings:
    # One instance a node, whatever the pod's name.
    - sourceLabels: [__meta_kubernetes_pod_node_name]
      targetLabel: node
    {{- with $monitor.relabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $monitor.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
