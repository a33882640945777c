{{- define "assay.webhook" -}}{{ .Release.Name }}-webhook{{- end }}
{{- define "assay.server" -}}{{ .Release.Name }}-server{{- end }}

{{- /* Labels of an object: the dictionary has root and component. */}}
{{- define "assay.labels" -}}
{{ include "assay.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: assay
{{- end }}
{{- define "assay.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* A reference: the dictionary has root and image. */}}
{{- define "assay.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* Go keeps below nine tenths of the container's memory, by collecting more often near it. */}}
{{- define "assay.goMemoryLimit" -}}
{{- $unit := ternary 1024 1 (hasSuffix "Gi" .) -}}
{{- div (mul (trimSuffix "Gi" (trimSuffix "Mi" .) | int) $unit 9) 10 -}}MiB
{{- end }}

{{- define "assay.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "assay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Replicas on different nodes and zones, where there are such. */}}
{{- define "assay.spread" -}}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- include "assay.selector" . | nindent 14 }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "assay.selector" . | nindent 8 }}
{{- end }}

{{- /* Namespaces whose workloads are judged: not the webhook's own, without which it could not
       start again after an outage, nor kube-system, without which the cluster could not. */}}
{{- define "assay.namespaceSelector" -}}
matchExpressions:
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values: {{ concat (list "kube-system" .Release.Namespace) .Values.webhook.excludedNamespaces | uniq | toJson }}
{{- with .Values.webhook.namespaceSelector }}
{{- if .key }}
  - key: {{ .key }}
    {{- if .values }}
    operator: In
    values: {{ include "assay.namespaceValues" . }}
    {{- else }}
    operator: Exists
    {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The values of a label, as a JSON list of texts: --set makes a boolean of true. */}}
{{- define "assay.namespaceValues" -}}
{{- $values := list }}
{{- range .values }}{{ $values = append $values (toString .) }}{{ end }}
{{- toJson $values }}
{{- end }}

{{- /* How the API server calls the webhook: the dictionary has root and path. */}}
{{- define "assay.clientConfig" -}}
service: {name: {{ include "assay.webhook" .root }}, namespace: {{ .root.Release.Namespace }}, path: {{ .path }}, port: 443}
{{- if eq .root.Values.certificates.issuer "secret" }}
caBundle: {{ required "certificates.issuer is secret: set certificates.caBundle" .root.Values.certificates.caBundle }}
{{- end }}
{{- end }}

{{- define "assay.cluster" -}}
{{ .Values.node.cluster | default .Values.cluster.name }}
{{- end }}
{{- /* The scope of what speaks of this cluster. */}}
{{- define "assay.scope" -}}
{{- if include "assay.cluster" . -}}
cluster={{ include "assay.cluster" . }}{{ with .Values.cluster.group }},group={{ . }}{{ end }}
{{- else -}}
all
{{- end -}}
{{- end }}

{{- define "assay.serverURL" -}}
{{- if .Values.webhook.server.url -}}
{{ .Values.webhook.server.url }}
{{- else if .Values.server.enabled -}}
https://{{ include "assay.server" . }}.{{ .Release.Namespace }}.svc:8380
{{- end -}}
{{- end }}
{{- define "assay.serverCA" -}}
{{- if .Values.webhook.server.url -}}
{{ .Values.webhook.server.caSecretName }}
{{- else if .Values.server.enabled -}}
{{ include "assay.serverTLS" . }}
{{- end -}}
{{- end }}
{{- define "assay.webhookTLS" -}}
{{- if eq .Values.certificates.issuer "secret" -}}
{{ required "certificates.issuer is secret: set certificates.secretName" .Values.certificates.secretName }}
{{- else -}}
{{ include "assay.webhook" . }}-tls
{{- end -}}
{{- end }}
{{- define "assay.serverTLS" -}}
{{- if eq .Values.certificates.issuer "cert-manager" -}}
{{ include "assay.server" . }}-tls
{{- else -}}
{{ .Values.server.tls.secretName }}
{{- end -}}
{{- end }}
