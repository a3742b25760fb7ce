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

{{/* The address that the metrics listen on. */}}
{{- define "flowtap.address" -}}
{{- if hasKey .Values "listenAddress" }}
{{- fail (printf "listenAddress: replaced by scrape.listen; to listen as before set scrape.listen to %v, which Prometheus can then reach" (ternary "all" .Values.listenAddress (eq "0.0.0.0" (toString .Values.listenAddress)))) }}
{{- end }}
{{- $listen := .Values.scrape.listen }}
{{- if eq "localhost" $listen }}127.0.0.1
{{- else if eq "all" $listen }}0.0.0.0
{{- else if eq "hostIP" $listen }}
{{- if not .Values.hostNetwork }}
{{- fail "scrape.listen: hostIP needs hostNetwork, as a pod can't listen on the node's address; set all" }}
{{- end }}${env:HOST_IP}
{{- else }}{{ $listen }}
{{- end }}
{{- end }}

{{/* Fails if something is to scrape from elsewhere and the metrics listen on loopback. */}}
{{- define "flowtap.scrapable" -}}
{{- if or (eq "localhost" .Values.scrape.listen) (hasPrefix "127." .Values.scrape.listen) (eq "[::1]" .Values.scrape.listen) }}
{{- $askers := list }}
{{- range $monitor := list "podMonitor" "serviceMonitor" "service" }}
{{- if (get $.Values $monitor).create }}
{{- $askers = append $askers (printf "%s.create" $monitor) }}
{{- end }}
{{- end }}
{{- range $key, $annotations := dict "podAnnotations" .Values.podAnnotations "service.annotations" .Values.service.annotations }}
{{- if eq "true" (toString (get (default dict $annotations) "prometheus.io/scrape")) }}
{{- $askers = append $askers (printf "%s prometheus.io/scrape" $key) }}
{{- end }}
{{- end }}
{{- if $askers }}
{{- fail (printf "%s: the metrics listen on %s, which Prometheus does not reach: set scrape.listen to %s, and scrape.auth.secretName to require a password for the flows" (join ", " $askers) .Values.scrape.listen (ternary "hostIP or all" "all" .Values.hostNetwork)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Rules and dashboards of one way that the metrics are named. In: a value `names`. */}}
{{- define "flowtap.variant" -}}
{{- ternary "flowtap" (printf "flowtap-%s" .) (eq "scraped" .) }}
{{- end }}

{{/* The config: what the values say, and the addresses to listen on, which the pod's ports must agree with. */}}
{{- define "flowtap.config" -}}
{{- include "flowtap.scrapable" . }}
{{- $address := include "flowtap.address" . }}
{{- $listeners := dict "service" (dict
      "admin" (dict "endpoint" (printf "127.0.0.1:%v" .Values.ports.admin))
      "telemetry" (dict "metrics" (dict "endpoint" (printf "%s:%v" $address .Values.ports.telemetry)))) }}
{{- if include "flowtap.uses" (list . "exporters" "prometheus") }}
{{- $prometheus := dict "endpoint" (printf "%s:%v" $address .Values.ports.metrics) }}
{{- with .Values.scrape.auth }}
{{- if .secretName }}
{{- $_ := set $prometheus "basic_auth" (dict
      "username" (printf "${file:/etc/flowtap-scrape/%s}" .usernameKey)
      "password" (printf "${file:/etc/flowtap-scrape/%s}" .passwordKey)) }}
{{- end }}
{{- end }}
{{- $_ := set $listeners "exporters" (dict "prometheus" $prometheus) }}
{{- end }}
{{- range $key, $value := dict "limit_mib" .Values.memoryLimiter.limitMiB "spike_limit_mib" .Values.memoryLimiter.spikeLimitMiB }}
{{- if not (kindIs "invalid" $value) }}
{{- $_ := set $listeners.service "memory_limiter" (merge (dict $key (int64 $value)) (default dict $listeners.service.memory_limiter)) }}
{{- end }}
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
{{- fail "config.exporters.prometheus.endpoint: set scrape.listen and ports.metrics instead, so that the pod's ports agree" }}
{{- end }}
{{- if hasKey (default dict $service.admin) "endpoint" }}
{{- fail "config.service.admin.endpoint: set ports.admin instead, so that the probes agree" }}
{{- end }}
{{- if hasKey (default dict (default dict $service.telemetry).metrics) "endpoint" }}
{{- fail "config.service.telemetry.metrics.endpoint: set scrape.listen and ports.telemetry instead, so that the pod's ports agree" }}
{{- end }}
{{- if not .Values.hostNetwork }}
{{- $extensions := default dict $config.extensions }}
{{- if hasKey (default dict $extensions.health_check) "endpoint" }}
{{- fail "config.extensions.health_check.endpoint: set ports.health instead, so that the probes agree" }}
{{- end }}
{{- $any := ternary "[::]" "0.0.0.0" (hasPrefix "[" $address) }}
{{- $_ := set $listeners "extensions" (dict "health_check" (dict "endpoint" (printf "%s:%v" $any .Values.ports.health) "path" "/readyz")) }}
{{- $running := default list $service.extensions }}
{{- $_ := set $listeners.service "extensions" (ternary $running (append $running "health_check") (has "health_check" $running)) }}
{{- end }}
{{- if and (contains "/var/lib/flowtap" (toJson $config)) (not .Values.state.enabled) }}
{{- fail "config names a file in /var/lib/flowtap, and the root file system is read-only: set state.enabled" }}
{{- end }}
{{- toYaml (mergeOverwrite $config $listeners) }}
{{- end }}

{{/* Two endpoints of a monitor. In: dict with root and the monitor's values. */}}
{{- define "flowtap.endpoints" -}}
{{- $monitor := .monitor }}
{{- $auth := .root.Values.scrape.auth }}
{{- $tls := (default dict (default dict .root.Values.config.exporters).prometheus).tls }}
{{- range $port := ternary (list "metrics" "telemetry") (list "telemetry") (eq "yes" (include "flowtap.uses" (list .root "exporters" "prometheus"))) }}
- port: {{ $port }}
  interval: {{ $monitor.interval }}
  scrapeTimeout: {{ $monitor.scrapeTimeout }}
  honorLabels: {{ $monitor.honorLabels }}
  {{- if eq "metrics" $port }}
  {{- if $auth.secretName }}
  basicAuth:
    username: {name: {{ $auth.secretName }}, key: {{ $auth.usernameKey }}}
    password: {name: {{ $auth.secretName }}, key: {{ $auth.passwordKey }}}
  {{- end }}
  {{- if $tls }}
  scheme: https
  {{- with $monitor.tlsConfig }}
  tlsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- end }}
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
