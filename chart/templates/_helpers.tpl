{{/* Names, labels and parts of several objects. `default` is never used for booleans: it treats false as unset. */}}

{{- define "exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "exporter.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "exporter.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "exporter.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "exporter.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "exporter.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
app.kubernetes.io/component: metrics
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Labels with each key once: a key of the user's overrides any but those that select the pods. Called with the root, the
values, which may be templates, and more labels. */}}
{{- define "exporter.mergedLabels" -}}
{{- $own := dict }}
{{- range $key, $value := merge (dict) .values .root.Values.commonLabels }}
{{- $_ := set $own $key (tpl (toString $value) $.root) }}
{{- end }}
{{- $own = mergeOverwrite $own (.more | default dict) }}
{{- range $key, $value := $own }}
{{- if not (and (regexMatch "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$" $key) (regexMatch "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$" $value)) }}
{{- fail (printf "%s: %q is no label of Kubernetes: 63 letters, digits, -, _ and ., the first and last a letter or digit" $key $value) }}
{{- end }}
{{- end }}
{{- $selected := fromYaml (include "exporter.selectorLabels" .root) }}
{{- toYaml (mergeOverwrite (fromYaml (include "exporter.commonLabels" .root)) $own $selected) }}
{{- end }}

{{- define "exporter.labels" -}}
{{- include "exporter.mergedLabels" (dict "root" . "values" dict) }}
{{- end }}

{{- define "exporter.podLabels" -}}
{{- include "exporter.mergedLabels" (dict "root" . "values" .Values.podLabels) }}
{{- end }}

{{- define "exporter.podAnnotations" -}}
{{- $found := dict "kubectl.kubernetes.io/default-container" "exporter" "cluster-autoscaler.kubernetes.io/safe-to-evict" "true" }}
{{- if and .Values.scrapeAnnotations (not (or .Values.podMonitor.enabled .Values.serviceMonitor.enabled)) }}
{{- $_ := set $found "prometheus.io/scrape" "true" }}
{{- $_ := set $found "prometheus.io/port" (toString .Values.web.port) }}
{{- $_ := set $found "prometheus.io/path" .Values.web.telemetryPath }}
{{- $_ := set $found "prometheus.io/scheme" (include "exporter.scheme" .) }}
{{- end }}
{{- /* The layout is read at the start; the web configuration is taken while serving and needs no restart. */}}
{{- if .Values.calico.layoutFile }}
{{- $_ := set $found "checksum/layout" (sha256sum .Values.calico.layoutFile) }}
{{- end }}
{{- range $key, $value := .Values.podAnnotations }}
{{- $_ := set $found $key (tpl (toString $value) $) }}
{{- end }}
{{- toYaml $found }}
{{- end }}

{{/* Virtual kubelets have no network of a node, and would keep a pod of the DaemonSet pending for ever. */}}
{{- define "exporter.affinity" -}}
{{- if .Values.affinity }}
{{- toYaml .Values.affinity }}
{{- else -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - {key: eks.amazonaws.com/compute-type, operator: NotIn, values: [fargate]}
          - {key: type, operator: NotIn, values: [virtual-kubelet]}
{{- end }}
{{- end }}

{{- define "exporter.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "exporter.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "exporter.image" -}}
{{- $registry := default .Values.image.registry .Values.global.imageRegistry }}
{{- $name := printf "%s%s" (empty $registry | ternary "" (printf "%s/" $registry)) .Values.image.repository }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $name .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "exporter.pullSecrets" -}}
{{- $secrets := concat .Values.global.imagePullSecrets .Values.imagePullSecrets }}
{{- if $secrets }}
imagePullSecrets:
  {{- range $secrets }}
  - name: {{ kindIs "string" . | ternary . (get (kindIs "map" . | ternary . dict) "name") }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The container's security context. Fields of containerSecurityContext override those of the profile. */}}
{{- define "exporter.securityContext" -}}
{{- $context := dict "runAsUser" 0 "runAsGroup" 10042 "runAsNonRoot" false "readOnlyRootFilesystem" true }}
{{- if eq .Values.securityProfile "privileged" }}
{{- $_ := set $context "privileged" true }}
{{- else }}
{{- $_ := set $context "privileged" false }}
{{- $_ := set $context "allowPrivilegeEscalation" false }}
{{- /* SYS_ADMIN: all commands of bpf(2), also before Linux 5.8. BPF: opening pinned maps. DAC_READ_SEARCH: Calico creates
its policy folder with mode 0600, which not even its owner may enter. SETUID and SETGID: to drop root before serving;
they are dropped too. */}}
{{- $bpf := eq .Values.securityProfile "sysadmin" | ternary "SYS_ADMIN" "BPF" }}
{{- /* NET_RAW: a packet socket, which only the command why --packets opens; serve drops it. */}}
{{- $raw := .Values.packets.enabled | ternary (list "NET_RAW") list }}
{{- $_ := set $context "capabilities" (dict "drop" (list "ALL") "add" (concat (list $bpf "DAC_READ_SEARCH" "SETUID" "SETGID") $raw)) }}
{{- $_ := set $context "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- /* On nodes with SELinux, container_t may not read bpffs. Elsewhere this has no effect. */}}
{{- $_ := set $context "seLinuxOptions" (dict "type" "spc_t") }}
{{- end }}
{{- toYaml (mergeOverwrite $context .Values.containerSecurityContext) }}
{{- end }}

{{/* The scheme of the port: http or https. */}}
{{- define "exporter.scheme" -}}
{{- or (hasKey .Values.webConfig.content "tls_server_config") (eq .Values.probes.scheme "https") | ternary "https" "http" }}
{{- end }}

{{/* The probes' scheme: http, https, tcp or none. The kubelet has no client certificate, so tcp where one is required. */}}
{{- define "exporter.probeScheme" -}}
{{- if .Values.probes.scheme }}
{{- .Values.probes.scheme }}
{{- else }}
{{- $tls := get .Values.webConfig.content "tls_server_config" | default dict }}
{{- $required := or (eq (get $tls "client_auth_type" | toString) "RequireAndVerifyClientCert") (hasKey $tls "client_allowed_sans") }}
{{- $required | ternary "tcp" (include "exporter.scheme" .) }}
{{- end }}
{{- end }}

{{- define "exporter.probe" -}}
{{- $scheme := include "exporter.probeScheme" .root }}
{{- /* The kubelet puts an IPv6 address into brackets itself; of every address, or the node's, it asks the pod's. */}}
{{- $host := .root.Values.web.host | trimPrefix "[" | trimSuffix "]" }}
{{- if eq $scheme "tcp" }}
tcpSocket:
  port: metrics
{{- else }}
httpGet:
  path: {{ .path }}
  port: metrics
  scheme: {{ upper $scheme }}
{{- end }}
{{- if not (or (contains "$(" $host) (has $host (list "" "0.0.0.0" "::"))) }}
  host: {{ $host | quote }}
{{- end }}
{{ toYaml .timing }}
{{- end }}

{{/* The endpoints of a PodMonitor or a ServiceMonitor: called with the root and the monitor's values. */}}
{{- define "exporter.endpoints" -}}
- {{ include "exporter.endpoint" (dict "root" .root "monitor" .monitor "rules" false) | nindent 2 | trim }}
{{- if .monitor.rulesInterval }}
# The policy rules alone, less often. Its series and its `up` have a label of their own, and it has no self-metrics.
- {{ include "exporter.endpoint" (dict "root" .root "monitor" .monitor "rules" true) | nindent 2 | trim }}
{{- end }}
{{- end }}

{{- define "exporter.endpoint" -}}
{{- $monitor := .monitor -}}
{{- $params := deepCopy $monitor.params }}
{{- if $monitor.rulesInterval }}
{{- $_ := set $params (ternary "collect[]" "exclude[]" .rules) (list "rules") }}
{{- end -}}
port: metrics
path: {{ .root.Values.web.telemetryPath }}
scheme: {{ default (include "exporter.scheme" .root) $monitor.scheme }}
honorLabels: {{ $monitor.honorLabels }}
{{- with $params }}
params:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with ternary $monitor.rulesInterval $monitor.interval .rules }}
interval: {{ . }}
{{- end }}
{{- with $monitor.scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- range $name := list "tlsConfig" "basicAuth" "authorization" }}
{{- with get $monitor $name }}
{{ $name }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with $monitor.bearerTokenFile }}
bearerTokenFile: {{ . }}
{{- end }}
relabelings:
  # Families without a pod would have the exporter's, and start over at every rollout.
  - action: labeldrop
    regex: pod|container|endpoint
  {{- with $monitor.relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if .rules }}
  - targetLabel: scrape
    replacement: rules
  {{- end }}
  # An exporter must not say where it is: who scrapes it knows.
  - sourceLabels: [__meta_kubernetes_pod_node_name]
    targetLabel: node
{{- if or $monitor.metricRelabelings .rules }}
metricRelabelings:
  {{- with $monitor.metricRelabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if .rules }}
  - action: drop
    sourceLabels: [__name__]
    regex: (calico_bpf_exporter|calico_bpf_dataplane|calico_bpf_source|process|python)_.+
  {{- end }}
{{- end }}
{{- end }}

{{/* What stands beside the endpoints of a monitor. */}}
{{- define "exporter.monitor" -}}
jobLabel: {{ .jobLabel }}
{{- with .podTargetLabels }}
podTargetLabels:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .scrapeClass }}
scrapeClass: {{ . }}
{{- end }}
{{- with .sampleLimit }}
sampleLimit: {{ . }}
{{- end }}
{{- with .labelLimit }}
labelLimit: {{ . }}
{{- end }}
{{- end }}

{{- define "exporter.hasWebConfig" -}}
{{- if or .Values.webConfig.content .Values.webConfig.existingSecret }}true{{ end }}
{{- end }}

{{/* Environment of all commands in the container: those run with kubectl exec do not get the DaemonSet's flags. */}}
{{- define "exporter.environment" -}}
- name: CALICO_BPF_EXPORTER_BPF_READER
  value: {{ .Values.reader }}
- name: CALICO_BPF_EXPORTER_CALICO_INTERFACE_PREFIX
  value: {{ join " " .Values.calico.interfacePrefixes | quote }}
{{- if .Values.calico.layoutFile }}
- name: CALICO_BPF_EXPORTER_CALICO_LAYOUT_FILE
  value: /etc/calico-bpf-exporter/layout/layout.yaml
{{- end }}
- name: CALICO_BPF_EXPORTER_KUBERNETES
  value: {{ .Values.kubernetes.enabled | quote }}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: HOST_IP
  valueFrom:
    fieldRef:
      fieldPath: status.hostIP
{{- /* Only these two keys, by name: any other would decide how a process of root starts. */}}
{{- range $name, $value := dict "HOST" .Values.kubernetes.apiHost "PORT" .Values.kubernetes.apiPort }}
{{- if $value }}
- name: KUBERNETES_SERVICE_{{ $name }}
  value: {{ $value | quote }}
{{- else if $.Values.kubernetes.endpointsConfigMap }}
- name: KUBERNETES_SERVICE_{{ $name }}
  valueFrom:
    configMapKeyRef:
      name: {{ $.Values.kubernetes.endpointsConfigMap }}
      key: KUBERNETES_SERVICE_{{ $name }}
      optional: true
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "exporter.nodeMounts" -}}
- name: bpffs
  mountPath: /sys/fs/bpf
  readOnly: true
  mountPropagation: {{ .Values.bpffs.mountPropagation }}
- name: calico
  mountPath: /var/run/calico
  readOnly: true
  mountPropagation: {{ .Values.bpffs.mountPropagation }}
{{- if .Values.calico.layoutFile }}
- name: layout
  mountPath: /etc/calico-bpf-exporter/layout
  readOnly: true
{{- end }}
{{- end }}

{{- define "exporter.nodeVolumes" -}}
# Without a type: the pod must also start on a node without Calico, and report it.
- name: bpffs
  hostPath:
    path: {{ .Values.bpffs.hostPath }}
- name: calico
  hostPath:
    path: {{ .Values.calico.runDir }}
{{- if .Values.calico.layoutFile }}
- name: layout
  configMap:
    name: {{ include "exporter.fullname" . }}-layout
{{- end }}
{{- end }}

{{/* A duration of Prometheus in seconds, 0 if empty. */}}
{{- define "exporter.seconds" -}}
{{- $seconds := 0.0 }}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" . -1 }}
{{- $unit := get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0) (regexFind "[a-z]+" .) }}
{{- $seconds = addf $seconds (mulf (regexFind "[0-9]+" . | float64) $unit) }}
{{- end }}
{{- $seconds }}
{{- end }}
