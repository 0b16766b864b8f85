{{- define "tuneport.name" -}}
{{- $chart := default .Chart.Name .Values.nameOverride }}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name) }}
{{- default $name .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "tuneport.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tuneport.labels" -}}
{{ include "tuneport.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* The versions that run: a dict of "stable" and, with canary, "canary". */ -}}
{{- define "tuneport.tracks" -}}
stable:
  name: {{ include "tuneport.name" . }}
  image: {{ .Values.image | toJson }}
  replicas: {{ .Values.replicas }}
  weight: {{ if .Values.canary.enabled }}{{ sub 100 .Values.canary.weight }}{{ else }}100{{ end }}
{{- if .Values.canary.enabled }}
canary:
  name: {{ include "tuneport.name" . }}-canary
  image: {{ merge (dict) .Values.canary.image (pick .Values.image "repository" "pullPolicy") | toJson }}
  replicas: {{ .Values.canary.replicas }}
  weight: {{ .Values.canary.weight }}
{{- end }}
{{- end }}

{{- /* A value as text. Helm reads whole numbers as floating-point ones, of which it would write 8388608 as 8.388608e+06. */ -}}
{{- define "tuneport.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "tuneport.scaling" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies: [{type: Percent, value: 100, periodSeconds: 30}]
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownSeconds }}
  policies: [{type: Pods, value: 1, periodSeconds: 60}]
{{- end }}

{{- define "tuneport.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ required "image.tag or image.digest is needed, also those of a canary" .tag }}{{ end }}
{{- end }}
