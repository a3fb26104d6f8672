{{/* Labels of every object. */}}
{{- define "beeline.labels" -}}
app.kubernetes.io/name: beeline
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: beeline
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* The selector of the agent's pods, which must not change. */}}
{{- define "beeline.selector" -}}
app.kubernetes.io/name: beeline
app.kubernetes.io/component: agent
{{- end }}

{{- define "beeline.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* The agent's values: all but those that only the chart reads, overridden by extraConfig. */}}
{{- define "beeline.config" -}}
{{- $own := omit .Values "global" "image" "imagePullSecrets" "resources" "tolerations" "nodeSelector" "affinity" "priorityClassName" "updateStrategy" "podAnnotations" "podLabels" "extraArgs" "extraEnv" "extraConfig" "cni" -}}
{{- $cni := pick .Values.cni "chainingMode" "customConf" -}}
{{- $prometheus := omit .Values.prometheus "serviceMonitor" -}}
{{- $own = merge (dict "cni" $cni "prometheus" $prometheus) (omit $own "prometheus") -}}
{{- toYaml (mergeOverwrite (deepCopy $own) (deepCopy .Values.extraConfig)) -}}
{{- end }}

{{/* True if sockets of pods are translated; the agent then ends those whose backend is gone. */}}
{{- define "beeline.podSockets" -}}
{{- and (eq (toString .Values.socketLB.enabled) "true") (eq (toString .Values.socketLB.hostNamespaceOnly) "false") -}}
{{- end }}
