{{- /* Of a component: dict "root" $ "component" name */ -}}
{{- define "vibevoice.componentLabels" -}}
app.kubernetes.io/part-of: vibevoice-otel
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{ include "vibevoice.componentSelector" . }}
{{- end }}

{{- define "vibevoice.componentSelector" -}}
app.kubernetes.io/name: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "vibevoice.name" -}}
{{- printf "%s-%s" .root.Release.Name .component | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "vibevoice.image" -}}
{{ printf "%s:%s" .repository (toString .tag) }}
{{- end }}

{{- /* Where a pod's own node takes OTLP. */ -}}
{{- define "vibevoice.otlp" -}}
{{ printf "http://%s.%s.svc:4318" (include "vibevoice.name" (dict "root" . "component" "agent")) .Release.Namespace }}
{{- end }}

{{- /* Longer than deregistration, the longest stream and the last export together. */ -}}
{{- define "vibevoice.grace" -}}
{{ add .Values.streams.deregisterSeconds .Values.streams.maxSeconds .Values.streams.flushSeconds 5 }}
{{- end }}

{{- /* Longer than P99 of a stream and a pod's start together, so that what was added is not taken away before it has worked. */ -}}
{{- define "vibevoice.stabilization" -}}
{{ add .Values.streams.p99Seconds .Values.streams.modelLoadSeconds (mul 2 .Values.autoscaling.periodSeconds) }}
{{- end }}

{{- /* The recorded series that scaling reads (dashboards/rules): the load in pods; 1 while the first-audio budget burns, else 0. */ -}}
{{- define "vibevoice.load" -}}
{{- if .Values.autoscaling.capacityPerPod -}}
{{ printf "service:vibevoice_streaming_active:sum{service=%q,environment=%q} / %v" .Values.serviceName .Values.environment .Values.autoscaling.capacityPerPod }}
{{- else -}}
{{ printf "service:vibevoice_load:pods{service=%q,environment=%q}" .Values.serviceName .Values.environment }}
{{- end -}}
{{- end }}
{{- define "vibevoice.held" -}}
{{ printf "service:vibevoice_scale_down_held:bool{service=%q,environment=%q}" .Values.serviceName .Values.environment }}
{{- end }}

{{- define "vibevoice.scaling" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  selectPolicy: Max
  policies:
    - { type: Pods, value: 1, periodSeconds: {{ .Values.autoscaling.periodSeconds }} }
scaleDown:
  stabilizationWindowSeconds: {{ include "vibevoice.stabilization" . }}
  selectPolicy: Max
  policies:
    - { type: Pods, value: 1, periodSeconds: {{ .Values.autoscaling.periodSeconds }} }
{{- end }}

{{- define "vibevoice.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "vibevoice.collectorEnvironment" -}}
- { name: COLLECTOR_OTLP_GRPC, value: "0.0.0.0:4317" }
- { name: COLLECTOR_OTLP_HTTP, value: "0.0.0.0:4318" }
- { name: COLLECTOR_METRICS, value: "0.0.0.0:8889" }
- { name: COLLECTOR_TELEMETRY_HOST, value: 0.0.0.0 }
- { name: COLLECTOR_HEALTH, value: "0.0.0.0:13133" }
- { name: DEPLOYMENT_ENVIRONMENT, value: {{ .Values.environment | quote }} }
{{- end }}

{{- define "vibevoice.collectorProbes" -}}
readinessProbe:
  httpGet: { path: /, port: health }
  periodSeconds: 5
livenessProbe:
  httpGet: { path: /, port: health }
  periodSeconds: 10
  failureThreshold: 6
{{- end }}
