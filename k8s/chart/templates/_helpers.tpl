{{- define "sglang.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "sglang.labels" -}}
{{ include "sglang.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- /* A string the container gets as it stands: Kubernetes would expand $(NAME) and halve $$. */ -}}
{{- define "sglang.literal" -}}
{{ . | replace "$" "$$" | quote }}
{{- end }}

{{- define "sglang.cacheVolume" -}}
{{- if .cache.pvc -}}
persistentVolumeClaim: {claimName: {{ .cache.pvc | quote }}}
{{- else -}}
hostPath: {path: {{ .cache.hostPath | quote }}, type: {{ .hostPathType }}}
{{- end }}
{{- end }}

{{- /* One probe's numbers, with the request all probes share. */ -}}
{{- define "sglang.probe" -}}
httpGet: {path: {{ .path | quote }}, port: http}
periodSeconds: {{ int64 .probe.periodSeconds }}
timeoutSeconds: {{ int64 .probe.timeoutSeconds }}
failureThreshold: {{ int64 .probe.failureThreshold }}
{{- end }}

{{- /* The engine's environment as JSON: what the caches need, and .Values.env, which wins. */ -}}
{{- define "sglang.env" -}}
{{- $env := dict }}
{{- with .Values.modelCache }}{{ if or .pvc .hostPath }}
{{- $_ := set $env "HF_HOME" .mountPath }}
{{- $_ := set $env "HF_HUB_OFFLINE" "1" }}
{{- end }}{{ end }}
{{- with .Values.compileCache }}{{ if or .pvc .hostPath }}
{{- $root := .mountPath }}
{{- range $name, $folder := .env }}{{ $_ := set $env $name (printf "%s/%s" $root $folder) }}{{ end }}
{{- end }}{{ end }}
{{- range $name, $value := .Values.env }}{{ $_ := set $env $name $value }}{{ end }}
{{- range $name, $_ := .Values.secretEnv }}{{ $_ := unset $env $name }}{{ end }}
{{- toJson $env }}
{{- end }}
