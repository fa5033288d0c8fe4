{{/* Names, labels and what several objects share. Booleans are never given to `default`, which takes false for unset. */}}

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
{{- range $key, $value := .Values.commonLabels }}
{{ $key }}: {{ tpl (toString $value) $ | quote }}
{{- end }}
{{- end }}

{{- define "exporter.labels" -}}
{{ include "exporter.selectorLabels" . }}
{{ include "exporter.commonLabels" . }}
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

{{/* What the container may do. Fields of containerSecurityContext go before those of the profile. */}}
{{- define "exporter.securityContext" -}}
{{- $context := dict "runAsUser" 0 "runAsNonRoot" false "readOnlyRootFilesystem" true }}
{{- if eq .Values.securityProfile "privileged" }}
{{- $_ := set $context "privileged" true }}
{{- else }}
{{- $_ := set $context "privileged" false }}
{{- $_ := set $context "allowPrivilegeEscalation" false }}
{{- /* SYS_ADMIN: every bpf command, on kernels before 5.8 too. BPF: opening maps that are pinned. DAC_READ_SEARCH: Calico
makes its folder of policies with mode 0600, which not even its owner may enter. SETUID: to stop being root before
serving; it is given up too. */}}
{{- $bpf := eq .Values.securityProfile "sysadmin" | ternary "SYS_ADMIN" "BPF" }}
{{- $_ := set $context "capabilities" (dict "drop" (list "ALL") "add" (list $bpf "DAC_READ_SEARCH" "SETUID")) }}
{{- $_ := set $context "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- /* On nodes with SELinux, container_t may not read bpffs. Elsewhere this has no effect. */}}
{{- $_ := set $context "seLinuxOptions" (dict "type" "spc_t") }}
{{- end }}
{{- toYaml (mergeOverwrite $context .Values.containerSecurityContext) }}
{{- end }}

{{/* The scheme of the port: http or https. */}}
{{- define "exporter.scheme" -}}
{{- hasKey .Values.webConfig.content "tls_server_config" | ternary "https" "http" }}
{{- end }}

{{/* http, https, tcp or none: how the kubelet asks. A client certificate, which it has not, is asked for before any path. */}}
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
{{- $host := .root.Values.web.host }}
{{- if eq $scheme "tcp" }}
tcpSocket:
  port: metrics
{{- else }}
httpGet:
  path: {{ .path }}
  port: metrics
  scheme: {{ upper $scheme }}
{{- end }}
{{- if and $host (not (hasPrefix "$(" $host)) }}
  host: {{ $host | quote }}
{{- end }}
{{ toYaml .timing }}
{{- end }}

{{/* What a PodMonitor and a ServiceMonitor say of a scrape: called with the root and the monitor's values. */}}
{{- define "exporter.endpoint" -}}
{{- $monitor := .monitor -}}
port: metrics
path: {{ .root.Values.web.telemetryPath }}
scheme: {{ default (include "exporter.scheme" .root) $monitor.scheme }}
honorLabels: {{ $monitor.honorLabels }}
{{- with $monitor.interval }}
interval: {{ . }}
{{- end }}
{{- with $monitor.scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with $monitor.tlsConfig }}
tlsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $monitor.basicAuth }}
basicAuth:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $monitor.authorization }}
authorization:
  {{- toYaml . | nindent 2 }}
{{- end }}
relabelings:
  {{- with $monitor.relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  # An exporter must not say where it is: who scrapes it knows.
  - sourceLabels: [__meta_kubernetes_pod_node_name]
    targetLabel: node
{{- with $monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The limits of a monitor, which stand beside its endpoints. */}}
{{- define "exporter.limits" -}}
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

{{/* What is true of the node, for every command in the container: who runs one with kubectl exec has no flags of ours. */}}
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
{{- with .Values.kubernetes.apiHost }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
{{- end }}
{{- with .Values.kubernetes.apiPort }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ . | quote }}
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
# Neither has a type: a node where Calico is not yet, or not any more, must start this pod and be told so.
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
