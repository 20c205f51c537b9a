"""Where a cluster is and who we are there: kubeconfig files as kubectl reads them, a kubeconfig given as data, or the pod's own service account.

Reads files and nothing else: no connection is made here, and no credential is kept beyond what the files say.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError as KubeconfigError

from lamplighter.core.errors import ProviderError

IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_FILES = (
    ("clusters", "cluster", ("certificate-authority",)),
    ("users", "user", ("client-certificate", "client-key", "tokenFile")),
)
_EXEC_VERSION = "client.authentication.k8s.io/v1beta1"


@dataclass(frozen=True, slots=True)
class Access:
    """Which cluster. `content`: a kubeconfig as data. `kubeconfig`: a file. Neither: $KUBECONFIG, ~/.kube/config or the pod's own account.

    `context` names one of the kubeconfig's; None: its current one. `namespace`: the default of all calls; None: the context's own.
    """

    context: str | None = None
    kubeconfig: Path | None = None
    content: Mapping[str, Any] | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """What `load` found. `proxy` and `tls_name`: what the kubeconfig says beside, for the HTTP client."""

    config: SingleConfig
    namespace: str
    origin: str
    proxy: str | None = None
    tls_name: str | None = None


def load(access: Access) -> Connection:
    """Read it. Raises ProviderError with the fix when there is no usable configuration."""
    if access.content is not None:
        return _choose(_resolved(access.content, None), access, "the given kubeconfig")
    files = _files(access)
    if not files:
        return _in_cluster(access)
    return _choose(_merged([_read(file) for file in files]), access, ", ".join(map(str, files)))


def _files(access: Access) -> Sequence[Path]:
    """As kubectl chooses: what is given, else $KUBECONFIG, else the file at home if there is one."""
    if access.kubeconfig is not None:
        return (access.kubeconfig.expanduser(),)
    variable = os.environ.get("KUBECONFIG", "")  # noqa: TID251 - kubectl's own, as a profile is AWS's: no setting of ours
    named = [Path(part).expanduser() for part in variable.split(os.pathsep) if part]
    if named:
        there = [file for file in named if file.is_file()]
        if not there:
            raise _unusable(f"$KUBECONFIG names no file that exists ({os.pathsep.join(map(str, named))}).")
        return there
    home = Path.home() / ".kube" / "config"
    return (home,) if home.is_file() else ()


def _in_cluster(access: Access) -> Connection:
    try:
        config = KubeConfig.from_service_account(IN_CLUSTER).get(access.context)
    except (KubeconfigError, KeyError) as error:
        if access.context is not None and IN_CLUSTER.exists():
            raise _unusable(
                f"There is no kubeconfig, and so no context {access.context!r}; the pod's own service account has none."
            ) from error
        raise _unusable("There is no kubeconfig here, and this is no pod with a service account.") from error
    if config is None:  # never: a service account's configuration has a current context
        raise _unusable("The pod's service account cannot be read.")
    return Connection(config, access.namespace or config.namespace.strip(), "the pod's service account")


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise _unusable(f"The kubeconfig {file} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _unusable(f"The kubeconfig {file} is not YAML.") from error
    if not isinstance(content, dict):
        raise _unusable(f"The kubeconfig {file} is empty.")
    return _resolved(content, file.parent)


def _resolved(content: Mapping[str, Any], folder: Path | None) -> Mapping[str, Any]:
    """A copy whose paths are absolute, so that several files can be joined, and whose sign-in programs lightkube takes."""
    out = dict(content)
    for section, key, paths in _FILES:
        entries = []
        for entry in content.get(section) or ():
            part = dict(entry.get(key) or {})
            for path in paths:
                if part.get(path) and folder is not None:
                    part[path] = str(folder / str(part[path]))
            if isinstance(part.get("exec"), dict):
                part["exec"] = _program(part["exec"], folder)
            if "auth-provider" in part:
                raise _unusable(f"The user {entry.get('name')!r} signs in by an auth-provider, which Kubernetes has given up.")
            entries.append({"name": entry.get("name"), key: part})
        out[section] = entries
    return out


def _program(given: Mapping[str, Any], folder: Path | None) -> Mapping[str, Any]:
    """A sign-in program. lightkube knows the beta of its protocol, whose answer is the same; the program is told which version to speak."""
    program = dict(given)
    version = str(program.get("apiVersion") or _EXEC_VERSION)
    told = f'{{"apiVersion":"{version}","kind":"ExecCredential","spec":{{"interactive":false}}}}'
    environment = [dict(one) for one in program.get("env") or ()]
    program["env"] = [*environment, {"name": "KUBERNETES_EXEC_INFO", "value": told}]
    program["apiVersion"] = _EXEC_VERSION
    command = str(program.get("command") or "")
    if "/" in command and folder is not None:
        program["command"] = str(folder / command)
    return program


def _merged(contents: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """As kubectl joins files: of two entries with one name the first counts."""
    out: dict[str, Any] = {
        "current-context": next((one["current-context"] for one in contents if one.get("current-context")), None)
    }
    for section in ("clusters", "users", "contexts"):
        found: dict[str, Any] = {}
        for content in contents:
            for entry in content.get(section) or ():
                found.setdefault(str(entry.get("name")), entry)
        out[section] = list(found.values())
    return out


def _choose(content: Mapping[str, Any], access: Access, origin: str) -> Connection:
    contexts = sorted(str(one.get("name")) for one in content.get("contexts") or ())
    wanted = access.context or content.get("current-context")
    if not wanted:
        raise _unusable(f"{origin} has no current context.", f"Name one of: {', '.join(contexts) or 'none'}.")
    if wanted not in contexts:
        raise _unusable(f"{origin} has no context {wanted!r}.", f"Name one of: {', '.join(contexts) or 'none'}.")
    try:
        config = KubeConfig.from_dict(dict(content)).get(wanted)
    except KeyError as error:
        raise _unusable(f"The context {wanted!r} of {origin} names {error}, which is not there.") from error
    except (KubeconfigError, ValueError, TypeError) as error:
        raise _unusable(f"{origin} is not a kubeconfig: {error}.") from error
    if config is None:
        raise _unusable(f"{origin} has no context {wanted!r}.")
    if config.user is None:
        config = config._replace(user=User())  # no credentials: a proxy on this machine, or an anonymous one
    raw = next(one["cluster"] for one in content["clusters"] if one["name"] == config.context.cluster)
    return Connection(
        config,
        access.namespace or config.namespace,
        f"{origin} ({wanted})",
        proxy=raw.get("proxy-url"),
        tls_name=raw.get("tls-server-name"),
    )


def _unusable(message: str, next_step: str = "") -> ProviderError:
    return ProviderError(
        message,
        next_step=next_step
        or "Name one: `kubeconfig` and `context` in the configuration, --kubeconfig where a command has it, or $KUBECONFIG; "
        "`kubectl config get-contexts` lists what there is.",
    )
