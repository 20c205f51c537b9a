{{/* What pods have in common: security, volumes, environment, arguments. */}}

{{/* securityContext of a pod of our own image. */}}
{{- define "lamplighter.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.podSecurity.runAsUser }}
runAsUser: {{ int64 . }}
runAsGroup: {{ int64 . }}
{{- end }}
{{- with .Values.podSecurity.fsGroup }}
fsGroup: {{ int64 . }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* securityContext of every container. */}}
{{- define "lamplighter.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where pods run. Call with (list $ component values "component"). */}}
{{- define "lamplighter.placement" -}}
{{- $values := index . 1 -}}
{{- with $values.nodeSelector -}}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "lamplighter.pullSecrets" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Volumes of gateway, keeper and the single pod; the data folder is the caller's. */}}
{{- define "lamplighter.volumes" -}}
- name: config
  configMap:
    name: {{ include "lamplighter.fullname" . }}-config
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- with include "lamplighter.volumes.database" . }}
{{ . }}
{{- end }}
{{- if ne .Values.redis.mode "none" }}
- name: redis
  secret:
    secretName: {{ include "lamplighter.secret.redis" . }}
    defaultMode: 0440
    items:
      - key: {{ include "lamplighter.secret.redis.key" . }}
        path: url
{{- end }}
{{- end -}}

{{- define "lamplighter.volumes.database" -}}
{{- if ne .Values.postgresql.mode "none" -}}
- name: database
  secret:
    secretName: {{ include "lamplighter.secret.database" . }}
    defaultMode: 0440
    items:
      - key: {{ include "lamplighter.secret.database.key" . }}
        path: url
      {{- if and (eq .Values.postgresql.mode "external") .Values.postgresql.external.listenUrlKey }}
      - key: {{ .Values.postgresql.external.listenUrlKey }}
        path: listen-url
      {{- end }}
{{- if and (eq .Values.postgresql.mode "external") .Values.postgresql.external.caCertificate }}
- name: database-ca
  configMap:
    name: {{ include "lamplighter.fullname" . }}-database-ca
{{- end }}
{{- end }}
{{- end -}}

{{- define "lamplighter.mounts" -}}
- name: config
  mountPath: /etc/lamplighter/lamplighter.yaml
  subPath: lamplighter.yaml
  readOnly: true
- name: data
  mountPath: /data
- name: tmp
  mountPath: /tmp
{{- with include "lamplighter.mounts.database" . }}
{{ . }}
{{- end }}
{{- if ne .Values.redis.mode "none" }}
- name: redis
  mountPath: /etc/lamplighter/redis
  readOnly: true
{{- end }}
{{- end -}}

{{- define "lamplighter.mounts.database" -}}
{{- if ne .Values.postgresql.mode "none" -}}
- name: database
  mountPath: /etc/lamplighter/database
  readOnly: true
{{- if and (eq .Values.postgresql.mode "external") .Values.postgresql.external.caCertificate }}
- name: database-ca
  mountPath: /etc/lamplighter/database-ca
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{/* The keeper's token for the API server: projected, of one hour, instead of the one that every pod gets. */}}
{{- define "lamplighter.token.volume" -}}
- name: kube-api-access
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                apiVersion: v1
                fieldPath: metadata.namespace
{{- end -}}

{{- define "lamplighter.token.mount" -}}
- name: kube-api-access
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end -}}

{{/* Environment of everything that runs the program. Call with (list $ "component"). */}}
{{- define "lamplighter.env" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
- name: HOME
  value: /tmp
{{- if ne $component "keeper" }}
- name: LAMPLIGHTER_ADMIN_KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "lamplighter.secret.keys" $root }}
      key: {{ include "lamplighter.secret.keys.key" $root }}
{{- end }}
{{- with include "lamplighter.secret.hub" $root }}
{{- if or (eq $component "single") (include "lamplighter.modelsUseHub" $root) }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ include "lamplighter.secret.hub.key" $root }}
{{- end }}
{{- end }}
{{- end -}}

{{/* "true" when a model refers to the hub's token by itself: every process resolves every reference when it starts. */}}
{{- define "lamplighter.modelsUseHub" -}}
{{- range .Values.models -}}{{- if .hub_token -}}true{{- end -}}{{- end -}}
{{- end -}}

{{- define "lamplighter.probes" -}}
startupProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 2
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /ready, port: http}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{/* Annotations of pods: a changed configuration or a changed Secret of ours starts new ones. Call with (list $ component values). */}}
{{- define "lamplighter.podAnnotations" -}}
{{- $root := index . 0 -}}
checksum/config: {{ include "lamplighter.config" $root | sha256sum }}
{{- if eq $root.Values.metrics.discovery "annotations" }}
prometheus.io/scrape: "true"
prometheus.io/path: /metrics
prometheus.io/port: {{ ternary "8080" "9090" (eq (index . 2) "keeper") | quote }}
{{- end }}
{{- with (index . 1).podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Waits for the embedded database, so that the first start is no crash. */}}
{{- define "lamplighter.wait" -}}
{{- if eq .Values.postgresql.mode "embedded" -}}
initContainers:
  - name: wait-for-database
    image: {{ include "lamplighter.image" (list .Values.postgresql.embedded.image "") }}
    imagePullPolicy: {{ .Values.postgresql.embedded.image.pullPolicy }}
    command: [sh, -c, "until pg_isready --quiet --timeout=2; do sleep 1; done"]
    env:
      - name: PGHOST
        value: {{ include "lamplighter.fullname" . }}-postgresql
      - name: PGUSER # else it looks for the name of a user that the image does not know
        value: lamplighter
    securityContext:
      {{- include "lamplighter.containerSecurity" . | nindent 6 }}
    resources:
      requests: {cpu: 10m, memory: 16Mi}
      limits: {memory: 64Mi}
{{- end }}
{{- end -}}
