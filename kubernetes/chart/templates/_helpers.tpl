{{/* The name of all objects: "conch" for a release of that name, else "release-conch". */}}
{{- define "conch.name" -}}
{{- ternary .Release.Name (printf "%s-conch" .Release.Name) (contains "conch" .Release.Name) | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "conch.labels" -}}
app.kubernetes.io/part-of: conch
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
models: {{ .Values.models.version | quote }}
{{- end }}

{{/* An object's: ("gateway" $), or ("" $). More labels may follow it. */}}
{{- define "conch.metadata" -}}
{{- $root := index . 1 -}}
name: {{ list (include "conch.name" $root) (index . 0) | compact | join "-" }}
namespace: {{ $root.Release.Namespace }}
labels: {{- include "conch.labels" $root | nindent 2 }}
{{- end }}

{{/* By which Services, policies and others know the pods: ("conch-gateway" $). */}}
{{- define "conch.selector" -}}
app.kubernetes.io/name: {{ index . 0 }}
app.kubernetes.io/instance: {{ (index . 1).Release.Name }}
{{- end }}

{{/* Labels of a pod: ("conch-gateway" "v1" $). */}}
{{- define "conch.podLabels" -}}
{{ include "conch.selector" (list (index . 0) (index . 2)) }}
app.kubernetes.io/version: {{ (index . 2).Chart.AppVersion | quote }}
models: {{ index . 1 | quote }}
{{- end }}

{{/* An image of ours: ("conch-gateway" $). */}}
{{- define "conch.image" -}}
{{- $values := (index . 1).Values.image -}}
{{- with $values.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ index . 0 }}:{{ $values.tag | default (index . 1).Chart.AppVersion }}
{{- end }}

{{- define "conch.tritonImage" -}}
{{- if eq .Values.engine "tensorrt" }}{{ .Values.image.tensorrt }}
{{- else }}{{ include "conch.image" (list (ternary "conch-triton-cpu" "conch-triton" (eq .Values.engine "openvino")) .) }}
{{- end }}
{{- end }}

{{/* Whether a volume ties all pods to one node. */}}
{{- define "conch.oneNode" -}}
{{- if not (or .Values.highAvailability .Values.models.image) }}true{{ end }}
{{- end }}

{{- define "conch.replicas" -}}
{{- .Values.triton.replicas | default (ternary 2 1 .Values.highAvailability) }}
{{- end }}

{{- define "conch.modelsClaim" -}}
{{- .Values.storage.models.existingClaim | default (printf "%s-models" (include "conch.name" .)) }}
{{- end }}

{{- define "conch.plansClaim" -}}
{{- .Values.storage.plans.existingClaim | default (printf "%s-plans" (include "conch.name" .)) }}
{{- end }}

{{- define "conch.keysSecret" -}}
{{- .Values.keys.existingSecret | default (printf "%s-keys" (include "conch.name" .)) }}
{{- end }}

{{/* The volume with the models, of a version: ("v1" $). */}}
{{- define "conch.modelsVolume" -}}
{{- $values := (index . 1).Values -}}
name: models
{{- if $values.models.image }}
image:
  reference: {{ $values.models.image }}:{{ index . 0 }}
  pullPolicy: {{ $values.image.pullPolicy }}
{{- else }}
persistentVolumeClaim:
  claimName: {{ include "conch.modelsClaim" (index . 1) }}
{{- end }}
{{- end }}

{{/* Every pod: (uid $). */}}
{{- define "conch.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with (index . 1).Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ index . 0 }}
  runAsGroup: {{ index . 0 }}
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Every container. */}}
{{- define "conch.locked" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Where a pod may run: ("triton" $). Without highAvailability, all follow Triton, and Triton those that are there. */}}
{{- define "conch.scheduling" -}}
{{- $name := index . 0 -}}
{{- $root := index . 1 -}}
{{- $own := index $root.Values $name -}}
{{- $oneNode := include "conch.oneNode" $root -}}
{{- with $own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := $own.tolerations -}}
{{- if and $oneNode (ne $name "triton") -}}
{{- $tolerations = concat $tolerations $root.Values.triton.tolerations -}}
{{- end -}}
{{- if ne $root.Values.engine "openvino" -}}
{{- $tolerations = prepend $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") -}}
{{- end -}}
{{- with $tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $own.affinity }}
affinity: {{- toYaml $own.affinity | nindent 2 }}
{{- else if $oneNode }}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          {{- if eq $name "triton" }}
          matchLabels: {app.kubernetes.io/instance: {{ $root.Release.Name }}}
          matchExpressions:
            - {key: app.kubernetes.io/name, operator: In, values: [conch-triton, conch-gateway, conch-export]}
          {{- else }}
          matchLabels: {{- include "conch.selector" (list "conch-triton" $root) | nindent 12 }}
          {{- end }}
{{- end }}
{{- if and $root.Values.highAvailability (ne $name "export") }}
topologySpreadConstraints:
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "conch.selector" (list (printf "conch-%s" $name) $root) | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}
