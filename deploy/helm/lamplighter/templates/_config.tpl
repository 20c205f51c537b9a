{{/*
lamplighter.yaml: what this chart decides, then `config`, `models` and `pools`. The schema refuses in `config` what the chart decides, so
nothing is overwritten in silence.
*/}}
{{- define "lamplighter.config" -}}
{{- $values := .Values -}}
{{- $fullname := include "lamplighter.fullname" . -}}
{{- $server := dict "host" $values.server.host "port" 8080 "metrics_without_key" $values.adminPort.enabled -}}
{{- $_ := set $server "shutdown_delay" $values.server.drain.delay -}}
{{- $_ := set $server "shutdown_grace" $values.server.drain.grace -}}
{{- $_ := set $server "cors" (dict "origins" $values.server.cors.origins "max_age" $values.server.cors.maxAge) -}}
{{- $_ := set $server "trusted_proxies" $values.server.trustedProxies -}}
{{- with include "lamplighter.publicUrl" . -}}
{{- $_ := set $server "public_url" . -}}
{{- end -}}
{{- with $values.server.allowedHosts -}}
{{- $service := printf "%s-gateway" $fullname -}}
{{- $inside := list $service (printf "%s.%s" $service $.Release.Namespace) (printf "%s.%s.svc" $service $.Release.Namespace) -}}
{{- $_ := set $server "allowed_hosts" (concat . $inside | uniq) -}}
{{- end -}}
{{- if $values.adminPort.enabled -}}
{{- $_ := set $server "admin" (dict "host" $values.server.host "port" 9090 "page" $values.adminPort.page) -}}
{{- end -}}
{{- if and (eq $values.mode "distributed") (gt (int $values.gateway.workers) 1) -}}
{{- $_ := set $server "workers" (int $values.gateway.workers) -}}
{{- end -}}
{{- $tree := dict "log" (dict "format" "json") -}}
{{- if ne $values.postgresql.mode "none" -}}
{{- $store := dict "url" "file:/etc/lamplighter/database/url" -}}
{{- if and (eq $values.postgresql.mode "external") $values.postgresql.external.listenUrlKey -}}
{{- $_ := set $store "listen_url" "file:/etc/lamplighter/database/listen-url" -}}
{{- end -}}
{{- $_ := set $tree "store" $store -}}
{{- end -}}
{{- if ne $values.redis.mode "none" -}}
{{- $_ := set $tree "redis" (dict "url" "file:/etc/lamplighter/redis/url") -}}
{{- end -}}
{{- $tree = mergeOverwrite $tree (deepCopy $values.config) -}}
{{- $_ := set $tree "server" $server -}}
{{- $pools := dict -}}
{{- $hub := include "lamplighter.secret.hub" . -}}
{{- range $name, $pool := $values.pools -}}
{{- $pool = deepCopy $pool -}}
{{- if eq (toString $pool.kind) "kubernetes" -}}
{{- if not (or $pool.namespace $pool.kubeconfig $pool.context) -}}
{{- $_ := set $pool "namespace" (include "lamplighter.modelNamespace" $) -}}
{{- end -}}
{{- if and $hub (not $pool.hub_token_secret) -}}
{{- $_ := set $pool "hub_token_secret" (printf "%s/%s" $hub (include "lamplighter.secret.hub.key" $)) -}}
{{- end -}}
{{- $pulls := concat $values.modelServers.imagePullSecrets (ternary (list $values.cronjobs.ecr.secretName) (list) $values.cronjobs.ecr.enabled) | uniq -}}
{{- if and $pulls (not (hasKey $pool "image_pull_secrets")) -}}
{{- $_ := set $pool "image_pull_secrets" $pulls -}}
{{- end -}}
{{- if and $pool.preload (not $pool.preload_image) -}}
{{- $_ := set $pool "preload_image" (include "lamplighter.image" (list $values.image $.Chart.AppVersion)) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $pools $name $pool -}}
{{- end -}}
{{- /* One pod without models of its own serves the small bundled one; several processes cannot share that. */ -}}
{{- if or $values.models $values.pools (eq $values.mode "distributed") -}}
{{- $_ := set $tree "models" $values.models -}}
{{- $_ := set $tree "pools" $pools -}}
{{- end -}}
{{- toYaml $tree -}}
{{- end -}}

{{- define "lamplighter.publicUrl" -}}
{{- if .Values.server.publicUrl -}}
{{- .Values.server.publicUrl -}}
{{- else if and (ne .Values.ingress.kind "none") .Values.ingress.hosts -}}
{{- $first := first .Values.ingress.hosts -}}
{{- if not (hasPrefix "*" $first) -}}
{{ ternary "http" "https" (eq .Values.ingress.tls.mode "none") }}://{{ $first }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What makes no sense is refused here, in words: a schema cannot compare values. */}}
{{- define "lamplighter.check" -}}
{{- $v := .Values -}}
{{- if and (eq $v.mode "distributed") (eq $v.postgresql.mode "none") -}}
{{- fail "mode distributed needs a database: set postgresql.mode to external (or embedded, for a trial)" -}}
{{- end -}}
{{- if and (eq $v.postgresql.mode "external") (not (or $v.postgresql.external.existingSecret $v.postgresql.external.url (include "lamplighter.fetched" (list . "database")))) -}}
{{- fail "postgresql.mode external needs the URL: set postgresql.external.existingSecret (or .url, or externalSecrets.secrets.database)" -}}
{{- end -}}
{{- if and (eq $v.redis.mode "external") (not (or $v.redis.external.existingSecret $v.redis.external.url (include "lamplighter.fetched" (list . "redis")))) -}}
{{- fail "redis.mode external needs the URL: set redis.external.existingSecret (or .url, or externalSecrets.secrets.redis)" -}}
{{- end -}}
{{- if and $v.externalSecrets.enabled (not $v.externalSecrets.store.name) -}}
{{- fail "externalSecrets.enabled needs externalSecrets.store.name" -}}
{{- end -}}
{{- if and (eq $v.page.mode "nginx") (eq $v.mode "single") -}}
{{- fail "page.mode nginx is for mode distributed; the single pod serves the page itself" -}}
{{- end -}}
{{- if and (eq $v.page.mode "nginx") (eq $v.adminPort.page "admin") -}}
{{- fail "page.mode nginx puts the page on the public port; adminPort.page admin takes its API away from there" -}}
{{- end -}}
{{- if gt (int $v.gateway.autoscaling.minReplicas) (int $v.gateway.autoscaling.maxReplicas) -}}
{{- fail "gateway.autoscaling.minReplicas is above maxReplicas" -}}
{{- end -}}
{{- if and $v.gateway.autoscaling.enabled (not (or $v.gateway.autoscaling.targetCPU $v.gateway.autoscaling.targetMemory $v.gateway.autoscaling.metrics)) -}}
{{- fail "gateway.autoscaling needs a target: targetCPU, targetMemory or metrics" -}}
{{- end -}}
{{- if and $v.keeper.persistence.enabled (gt (int $v.keeper.replicas) 1) -}}
{{- fail "keeper.persistence is the data folder of one keeper: set keeper.replicas to 1" -}}
{{- end -}}
{{- if and (ne $v.ingress.kind "none") (not $v.ingress.hosts) -}}
{{- fail "ingress.kind needs ingress.hosts" -}}
{{- end -}}
{{- if and (ne $v.ingress.tls.mode "none") (ne $v.ingress.kind "none") (eq $v.ingress.tls.mode "certManager") (not $v.ingress.tls.issuer.name) -}}
{{- fail "ingress.tls.mode certManager needs ingress.tls.issuer.name" -}}
{{- end -}}
{{- if and (eq $v.ingress.kind "alb") (has $v.ingress.tls.mode (list "secret" "certManager")) -}}
{{- fail "ingress.kind alb takes certificates from ACM: set ingress.tls.mode to terminated (and ingress.alb.certificateArn)" -}}
{{- end -}}
{{- if and (eq $v.ingress.kind "gateway") (not (or $v.ingress.gateway.parentRefs $v.ingress.gateway.createClass)) -}}
{{- fail "ingress.kind gateway needs ingress.gateway.parentRefs, or createClass to make a Gateway" -}}
{{- end -}}
{{- $gateway := default (dict) $v.config.gateway -}}
{{- $idle := include "lamplighter.seconds" $v.ingress.idleTimeout | int64 -}}
{{- range $setting, $usual := dict "hold" "55s" "first_byte_timeout" "10m" -}}
{{- $span := default $usual (get $gateway $setting) -}}
{{- if and (ne $v.ingress.kind "none") (le $idle (include "lamplighter.seconds" $span | int64)) -}}
{{- fail (printf "ingress.idleTimeout (%s) must be longer than config.gateway.%s (%s): else connections of waiting clients are cut" $v.ingress.idleTimeout $setting $span) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $v.ingress.kind "alb") (gt $idle 4000) -}}
{{- fail "ingress.idleTimeout: an AWS load balancer waits 4000 seconds at the most" -}}
{{- end -}}
{{- if and (has $v.metrics.discovery (list "serviceMonitor" "podMonitor")) (not $v.adminPort.enabled) (not $v.metrics.keySecret.name) -}}
{{- fail "metrics.discovery without adminPort.enabled needs metrics.keySecret.name: /metrics then wants a key" -}}
{{- end -}}
{{- if and (eq $v.metrics.discovery "annotations") (not $v.adminPort.enabled) -}}
{{- fail "metrics.discovery annotations needs adminPort.enabled: /metrics wants a key otherwise, and annotations carry none" -}}
{{- end -}}
{{- if and $v.cronjobs.ecr.enabled (not $v.cronjobs.ecr.registry) -}}
{{- fail "cronjobs.ecr.enabled needs cronjobs.ecr.registry" -}}
{{- end -}}
{{- range $name, $pool := $v.pools -}}
{{- if and (eq (toString $pool.federation) "liqo") (not $v.federation.enabled) -}}
{{- fail (printf "pools.%s.federation needs federation.enabled: the keeper joins clusters with rights of its own" $name) -}}
{{- end -}}
{{- end -}}
{{- if eq $v.mode "distributed" -}}
{{- range $name, $pool := $v.pools -}}
{{- if eq (toString $pool.kind) "process" -}}
{{- fail (printf "pools.%s: engines of a process pool listen inside the keeper's pod, where gateways cannot reach them; use kind kubernetes, or mode single" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
