{{/* The label `job` that a monitor gives its targets: the value of the label that it names, as the operator does it. */}}
{{- define "exporter.monitorJob" -}}
{{- $labels := fromYaml (include "exporter.labels" .) }}
{{- if .Values.podMonitor.enabled }}
{{- range $key, $value := .Values.podLabels }}
{{- $_ := set $labels $key (tpl (toString $value) $) }}
{{- end }}
{{- $namespace := default (include "exporter.namespace" .) .Values.podMonitor.namespace }}
{{- get $labels .Values.podMonitor.jobLabel | default (printf "%s/%s" $namespace (include "exporter.fullname" .)) }}
{{- else if .Values.serviceMonitor.enabled }}
{{- get $labels .Values.serviceMonitor.jobLabel | default (include "exporter.fullname" .) }}
{{- end }}
{{- end }}

{{/* The label `job` in alerts. Without a monitor it is for the scrape configuration to say; docs/kubernetes.md shows one. */}}
{{- define "exporter.job" -}}
{{- .Values.prometheusRule.job | default (include "exporter.monitorJob" .) | default (include "exporter.name" .) }}
{{- end }}

{{/* A text of a rule with values in the place of what it marks. The file is parsed before, so no value can break it. */}}
{{- define "exporter.ruleText" -}}
{{- $values := .root.Values.prometheusRule }}
{{- $text := replace "job=\"calico-bpf-exporter\"" (printf "job=%q" (include "exporter.job" .root)) .text }}
{{- $text = replace "https://github.com/calico-bpf-exporter/calico-bpf-exporter/blob/main/docs/runbooks/" $values.runbookUrl $text }}
{{- $text = hasPrefix "/d/" $text | ternary (printf "%s%s" $values.grafanaUrl $text) $text }}
{{- range $name, $value := $values.thresholds }}
{{- $text = regexReplaceAll (printf "[0-9.]+  # threshold: %s\\b" $name) $text (toString $value) }}
{{- end }}
{{- $text }}
{{- end }}

{{/* An expression with those of records in the place of their names: matchers and an offset behind a name go to each
range of five minutes in it, and the offset to records in it too. */}}
{{- define "exporter.inlined" -}}
{{- $expr := .expr }}
{{- range reverse .records }}
{{- $body := regexReplaceAll "(:rate5m\\b|\\[5m\\])" .expr "${1}@offset" | replace "[5m]" "@matchers[5m]" }}
{{- $body = trim $body | replace "@matchers" "${1}" | replace "@offset" "${2}" }}
{{- $expr = regexReplaceAll (printf "\\b%s(\\{[^}]*\\})?( offset \\w+)?" .record) $expr (printf "(%s)" $body) }}
{{- end }}
{{- $expr }}
{{- end }}

{{/* The alerts of all files as JSON: the severities that each name has. */}}
{{- define "exporter.alerts" -}}
{{- $known := dict }}
{{- range $name := list "rules/alerts" "optional/alerts" }}
{{- range (fromYaml ($.Files.Get (printf "files/%s.yaml" $name))).groups }}
{{- range .rules }}
{{- if hasKey . "alert" }}
{{- $_ := set $known .alert (append (get $known .alert | default list) .labels.severity) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $known }}
{{- end }}
