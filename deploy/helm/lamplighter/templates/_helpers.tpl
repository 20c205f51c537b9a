{{/* Names, labels and small functions. What pods have in common is in _pods.tpl, lamplighter.yaml in _config.tpl. */}}

{{- define "lamplighter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The prefix of all objects; at most 40 characters, so that every suffix fits into 63. */}}
{{- define "lamplighter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "lamplighter.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of an object. Call with (list $ "component"). */}}
{{- define "lamplighter.labels" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.commonLabels }}{{ toYaml . }}
{{ end -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "lamplighter.selector" . }}
app.kubernetes.io/version: {{ default $root.Chart.AppVersion $root.Values.image.tag | trunc 63 | quote }}
app.kubernetes.io/part-of: lamplighter
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end -}}

{{/* The labels by which pods of a component are found; they never change. Call with (list $ "component"). */}}
{{- define "lamplighter.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "lamplighter.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* metadata of a namespaced object. Call with (list $ "component" "suffix"), optionally a fourth: its annotations. */}}
{{- define "lamplighter.metadata" -}}
{{- $root := index . 0 -}}
{{- $suffix := index . 2 -}}
{{- $annotations := deepCopy $root.Values.commonAnnotations -}}
{{- if gt (len .) 3 -}}
{{- $annotations = merge (dict) (index . 3) $annotations -}}
{{- end -}}
name: {{ include "lamplighter.fullname" $root }}{{ with $suffix }}-{{ . }}{{ end }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "lamplighter.labels" (list $root (index . 1)) | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* An image's reference. Call with (list image defaultTag). */}}
{{- define "lamplighter.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default (index . 1) $image.tag }}
{{- end -}}
{{- end -}}

{{/* Seconds, rounded up, of a duration such as `1h30m`, `55s` or `500ms`. */}}
{{- define "lamplighter.seconds" -}}
{{- $milliseconds := 0.0 -}}
{{- $units := dict "ms" 1.0 "s" 1000.0 "m" 60000.0 "h" 3600000.0 "d" 86400000.0 -}}
{{- range regexFindAll "[0-9.]+ *(ms|s|m|h|d)" . -1 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $milliseconds = addf $milliseconds (mulf (float64 (regexFind "^[0-9.]+" .)) (get $units $unit)) -}}
{{- end -}}
{{- divf $milliseconds 1000.0 | ceil | int64 -}}
{{- end -}}

{{/* The component whose pods answer clients. */}}
{{- define "lamplighter.serving" -}}
{{- ternary "single" "gateway" (eq .Values.mode "single") -}}
{{- end -}}

{{/* The component whose pods keep. */}}
{{- define "lamplighter.keeping" -}}
{{- ternary "single" "keeper" (eq .Values.mode "single") -}}
{{- end -}}

{{- define "lamplighter.modelNamespace" -}}
{{- default .Release.Namespace .Values.modelServers.namespace -}}
{{- end -}}

{{/* The pools of kind kubernetes that live in this cluster, as JSON: name -> namespace. */}}
{{- define "lamplighter.pools" -}}
{{- $found := dict -}}
{{- $root := . -}}
{{- range $name, $pool := .Values.pools -}}
{{- if and (eq (toString $pool.kind) "kubernetes") (not $pool.kubeconfig) (not $pool.context) -}}
{{- $_ := set $found $name (default (include "lamplighter.modelNamespace" $root) $pool.namespace) -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* Namespaces of the models' pods, as JSON: {"list": [...]}. Those that Liqo runs on cloud nodes live in the federation's. */}}
{{- define "lamplighter.namespaces" -}}
{{- $found := include "lamplighter.pools" . | fromJson | values -}}
{{- $federation := default (dict) .Values.config.federation -}}
{{- range .Values.pools -}}
{{- if eq (toString .federation) "liqo" -}}
{{- $found = append $found (default "llm-inference" $federation.namespace) -}}
{{- end -}}
{{- end -}}
{{- dict "list" ($found | uniq | sortAlpha) | toJson -}}
{{- end -}}

{{/* Namespaces that need the hub's token: ours and the models', as JSON: {"list": [...]}. */}}
{{- define "lamplighter.hubNamespaces" -}}
{{- $models := (include "lamplighter.namespaces" . | fromJson).list -}}
{{- dict "list" (concat (list .Release.Namespace (include "lamplighter.modelNamespace" .)) $models | uniq) | toJson -}}
{{- end -}}

{{/* "true" when the keeper talks to this cluster. */}}
{{- define "lamplighter.usesCluster" -}}
{{- if or (include "lamplighter.pools" . | fromJson) .Values.federation.enabled -}}true{{- end -}}
{{- end -}}

{{/* Names of Secrets: given ones, or those that this chart or the External Secrets Operator makes. */}}
{{- define "lamplighter.secret.keys" -}}
{{- default (printf "%s-keys" (include "lamplighter.fullname" .)) .Values.keys.existingSecret -}}
{{- end -}}
{{- define "lamplighter.secret.keys.key" -}}
{{- ternary .Values.keys.existingSecretKey "admin-key" (not (empty .Values.keys.existingSecret)) -}}
{{- end -}}
{{- define "lamplighter.secret.database" -}}
{{- if and (eq .Values.postgresql.mode "external") .Values.postgresql.external.existingSecret -}}
{{- .Values.postgresql.external.existingSecret -}}
{{- else -}}
{{- include "lamplighter.fullname" . }}-database
{{- end -}}
{{- end -}}
{{- define "lamplighter.secret.redis" -}}
{{- if and (eq .Values.redis.mode "external") .Values.redis.external.existingSecret -}}
{{- .Values.redis.external.existingSecret -}}
{{- else -}}
{{- include "lamplighter.fullname" . }}-redis
{{- end -}}
{{- end -}}
{{/* Key of the URL in the database's Secret. */}}
{{- define "lamplighter.secret.database.key" -}}
{{- ternary .Values.postgresql.external.urlKey "url" (eq .Values.postgresql.mode "external") -}}
{{- end -}}
{{- define "lamplighter.secret.redis.key" -}}
{{- ternary .Values.redis.external.urlKey "url" (eq .Values.redis.mode "external") -}}
{{- end -}}
{{/* Whether the operator makes the Secret of a role. Call with (list $ "role"). */}}
{{- define "lamplighter.fetched" -}}
{{- $root := index . 0 -}}
{{- if and $root.Values.externalSecrets.enabled (hasKey $root.Values.externalSecrets.secrets (index . 1)) -}}true{{- end -}}
{{- end -}}
{{/* `NAME` of the hub's Secret; empty: there is none. */}}
{{- define "lamplighter.secret.hub" -}}
{{- if .Values.hub.existingSecret -}}
{{- .Values.hub.existingSecret -}}
{{- else if or .Values.hub.token (include "lamplighter.fetched" (list . "hub")) -}}
{{- include "lamplighter.fullname" . }}-hub
{{- end -}}
{{- end -}}
{{- define "lamplighter.secret.hub.key" -}}
{{- ternary .Values.hub.existingSecretKey "token" (not (empty .Values.hub.existingSecret)) -}}
{{- end -}}

{{/* The PriorityClass of a component. Call with (list $ component values). */}}
{{- define "lamplighter.priority" -}}
{{- $root := index . 0 -}}
{{- if (index . 1).priorityClassName -}}
{{- (index . 1).priorityClassName -}}
{{- else if $root.Values.priorityClasses.create -}}
{{- include "lamplighter.fullname" $root }}-control
{{- end -}}
{{- end -}}

{{/* The gateway's pods, at the least. */}}
{{- define "lamplighter.gateway.least" -}}
{{- ternary .Values.gateway.autoscaling.minReplicas .Values.gateway.replicas .Values.gateway.autoscaling.enabled | int -}}
{{- end -}}

{{/* The Service of whoever serves a path: page or gateway. Call with (list $ path). */}}
{{- define "lamplighter.backend" -}}
{{- $root := index . 0 -}}
{{- include "lamplighter.fullname" $root }}-{{ ternary "page" "gateway" (and (eq (index . 1) "/") (eq $root.Values.page.mode "nginx") (eq $root.Values.mode "distributed")) -}}
{{- end -}}

{{/* What the gateway answers beside the page, one path a line; `/` is the page's. */}}
{{- define "lamplighter.paths" -}}
/v1 /api /rerank /tokenize /detokenize /openapi.json /health /ready
{{- end -}}

{{- define "lamplighter.secretName.tls" -}}
{{- default (printf "%s-tls" (include "lamplighter.fullname" .)) .Values.ingress.tls.secretName -}}
{{- end -}}

{{/* metadata of an object beside the models. Call with (list $ "component" "suffix" namespace), optionally a fifth: its annotations. */}}
{{- define "lamplighter.metadata.elsewhere" -}}
{{- $root := index . 0 -}}
{{- $annotations := deepCopy $root.Values.commonAnnotations -}}
{{- if gt (len .) 4 -}}
{{- $annotations = merge (dict) (index . 4) $annotations -}}
{{- end -}}
name: {{ include "lamplighter.fullname" $root }}-{{ index . 2 }}
namespace: {{ index . 3 }}
labels:
  {{- include "lamplighter.labels" (list $root (index . 1)) | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* "true" when a pool of this namespace spreads one model over several machines. Call with (list $ namespace). */}}
{{- define "lamplighter.wide" -}}
{{- $root := index . 0 -}}
{{- $namespace := index . 1 -}}
{{- $wide := false -}}
{{- range $name, $where := include "lamplighter.pools" $root | fromJson -}}
{{- if and (eq $where $namespace) (gt (default 1 (get $root.Values.pools $name).nodes | int) 1) -}}{{- $wide = true -}}{{- end -}}
{{- end -}}
{{- if $wide -}}true{{- end -}}
{{- end -}}
