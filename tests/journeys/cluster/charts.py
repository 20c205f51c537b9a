"""Small charts with the names and versions of the upstream ones: what Helm and the API server do with them is real, what they bring is not."""

from pathlib import Path

import yaml

from lamplighter.operations.cluster.parts import PARTS, Part

_TEMPLATE = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}-main
spec:
  replicas: {{ ternary 1 0 (default false .Values.hangs) }}
  selector:
    matchLabels: {app: {{ .Release.Name }}}
  template:
    metadata:
      labels: {app: {{ .Release.Name }}}
    spec:
      containers:
        - name: main
          image: IMAGE
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-values
data:
  values.json: {{ .Values | toJson | quote }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .Release.Name }}-role
rules: []
"""
_CLAIM = """\
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .Release.Name }}-data
  annotations: {helm.sh/resource-policy: keep}
  labels: {LABEL: VALUE}
spec:
  storageClassName: "" # a volume that the test made
  accessModes: [ReadWriteOnce]
  resources:
    requests: {storage: 1Gi}
"""


def write(folder: Path) -> Path:
    """One for each part, into `folder`."""
    for part in PARTS:
        chart = folder / part.chart.name
        (chart / "templates").mkdir(parents=True)
        (chart / "Chart.yaml").write_text(_about(part, part.chart.version))
        (chart / "templates" / "all.yaml").write_text(_text(part))
    return folder


def age(folder: Path, name: str, version: str) -> None:
    """Give one part's chart another version."""
    (part,) = [part for part in PARTS if part.name == name]
    (folder / part.chart.name / "Chart.yaml").write_text(_about(part, version))


def _about(part: Part, version: str) -> str:
    return yaml.safe_dump({"apiVersion": "v2", "name": part.chart.name, "version": version, "appVersion": "1"})


def _text(part: Part) -> str:
    text = _TEMPLATE.replace("IMAGE", f"registry.test/{part.programs[0].strip('/:@')}:1")
    if part.data is not None:
        label, value = part.data
        text += _CLAIM.replace("LABEL", label).replace("VALUE", value or "any")
    return text
