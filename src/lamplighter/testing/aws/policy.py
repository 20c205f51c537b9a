"""What a node's role may do, decided by the policies that the role really has in the emulator: those of Terraform, or of `seed_stack`.

And what the keeper may do, where a test hands in its policy: people may do everything else.

Only what such policies need of IAM's language: Allow and Deny, wildcards, `${aws:userid}`, and a few conditions. What it does not know matches nothing.
"""

import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

from lamplighter.testing.aws.callers import Caller, DeniedError
from lamplighter.testing.aws.guard import ACCOUNT

_METHODS = {"GET": "Get", "HEAD": "Get", "PUT": "Put", "POST": "Put", "DELETE": "Delete"}
_EVERY = "ForAllValues:"
_SEPARATOR = "\n"
_LIKE = ("StringLike", "ArnLike", "StringEqualsIgnoreCase", "ArnEquals", "StringEquals")


Asked = list[tuple[str, dict[str, str]]]
"""Every resource of a request, with what conditions may ask about it."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Whoever runs Lamplighter at home, held to `document`."""

    document: Mapping[str, Any]
    service: str
    region: str
    sender: str = "AIDAEMULATEDKEEPER000"


Actor = Caller | Keeper


def check(caller: Actor, environ: Mapping[str, Any], body: bytes) -> None:
    """Raise DeniedError unless the caller's role (or the keeper's policy) allows the request."""
    action, asked = _request(caller, environ, body)
    for resource, context in asked:
        if not allowed(caller, action, resource, context):
            message = (
                f"User: {_who(caller)} is not authorized to perform: {action} on resource: {resource} "
                "because no identity-based policy allows it"
            )
            raise DeniedError("AccessDenied", message)


def _who(caller: Actor) -> str:
    if isinstance(caller, Keeper):
        return f"arn:aws:iam::{ACCOUNT}:user/keeper"
    return f"arn:aws:sts::{ACCOUNT}:assumed-role/{caller.role.name}/{caller.record.instance.id}"


def allowed(caller: Actor, action: str, resource: str, context: Mapping[str, str]) -> bool:
    """Whether some statement allows it and none denies it."""
    context = {"aws:userid": caller.sender, "aws:requestedregion": caller.region, **context}
    verdict = False
    for statement in _statements(caller):
        if not _about(statement, action, resource, context):
            continue
        if statement["Effect"] == "Deny":
            return False
        verdict = True
    return verdict


def _statements(caller: Actor) -> list[dict[str, Any]]:
    if isinstance(caller, Keeper):
        return _many(caller.document["Statement"])
    role = caller.role
    documents = [json.loads(unquote(text)) if text.startswith("%") else json.loads(text) for text in role.policies.values()]
    documents += [json.loads(policy.document) for policy in role.managed_policies.values()]
    return [one for document in documents for one in _many(document["Statement"])]


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _about(statement: dict[str, Any], action: str, resource: str, context: Mapping[str, str]) -> bool:
    if not any(fnmatch.fnmatchcase(action.lower(), pattern.lower()) for pattern in _many(statement.get("Action", []))):
        return False
    patterns = [_fill(pattern, context) for pattern in _many(statement.get("Resource", []))]
    if not any(_matches(resource, pattern) for pattern in patterns):
        return False
    return all(_holds(kind, wanted, context) for kind, wanted in statement.get("Condition", {}).items())


def _fill(pattern: str, context: Mapping[str, str]) -> str:
    return re.sub(r"\$\{([^}]+)\}", lambda match: context.get(match.group(1).lower(), "\0unknown"), pattern)


def _matches(value: str, pattern: str) -> bool:
    # IAM's wildcards are only * and ?.
    return re.fullmatch("".join({"*": ".*", "?": "."}.get(one, re.escape(one)) for one in pattern), value, re.DOTALL) is not None


def _holds(kind: str, wanted: dict[str, Any], context: Mapping[str, str]) -> bool:
    every = kind.startswith(_EVERY)
    if kind.removesuffix("IfExists").removeprefix(_EVERY) not in _LIKE:
        return False
    for name, values in wanted.items():
        there = context.get(name.lower())
        if there is None:
            if kind.endswith("IfExists") or every:
                continue
            return False
        given = there.split(_SEPARATOR) if every else [there]
        if not all(any(_matches(one, _fill(str(value), context)) for value in _many(values)) for one in given):
            return False
    return True


def action_of(environ: Mapping[str, Any], body: bytes, service: str) -> str:
    """What a request asks for, as IAM calls it."""
    if service == "s3":
        return _s3(environ)[0]
    if target := environ.get("HTTP_X_AMZ_TARGET", ""):
        return f"{service}:{target.rpartition('.')[2]}"
    form = parse_qs((body or environ.get("QUERY_STRING", "").encode()).decode(errors="replace"))
    return f"{service}:{form.get('Action', ['Unknown'])[0]}"


def _request(caller: Actor, environ: Mapping[str, Any], body: bytes) -> tuple[str, Asked]:
    if caller.service == "s3":
        return _s3(environ)
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        action, values = target.rpartition(".")[2], json.loads(body or b"{}")
    else:
        form = parse_qs((body or environ.get("QUERY_STRING", "").encode()).decode())
        values = {name: found[0] for name, found in form.items()}
        values.setdefault("QueueUrl", environ.get("PATH_INFO", ""))
        action = values.get("Action", "Unknown")
    return f"{caller.service}:{action}", _resources(caller, values)


def _s3(environ: Mapping[str, Any]) -> tuple[str, Asked]:
    host, _, rest = environ.get("HTTP_HOST", "").partition(".s3.")
    path = environ.get("PATH_INFO", "/").lstrip("/")
    bucket, _, key = (host, "", path) if rest.partition(":")[0].endswith("amazonaws.com") else path.partition("/")
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    if not key:
        prefix = query.get("prefix", [""])[0]
        kind = "s3:ListBucket" if environ["REQUEST_METHOD"] in ("GET", "HEAD") else "s3:PutBucket"
        return kind, [(f"arn:aws:s3:::{bucket}", {"s3:prefix": prefix})]
    return f"s3:{_METHODS[environ['REQUEST_METHOD']]}Object", [(f"arn:aws:s3:::{bucket}/{key}", {})]


def _resources(caller: Actor, values: Mapping[str, Any]) -> Asked:
    here = f"{caller.region}:{ACCOUNT}"
    if caller.service == "sqs":
        return [(f"arn:aws:sqs:{here}:{str(values.get('QueueUrl', '')).rstrip('/').rpartition('/')[2]}", {})]
    if caller.service == "autoscaling":
        return [_group(caller, str(values.get("InstanceId", "")), values)]
    if caller.service == "secretsmanager":
        return [(_secret(caller, str(values.get("SecretId", ""))), {})]
    if caller.service == "ssm":
        return [(f"arn:aws:ssm:{here}:parameter/{str(values.get('Name', '')).lstrip('/')}", {})]
    if caller.service == "ec2" and "VolumeId" in values:
        return [
            _tagged(caller, "volume", str(values["VolumeId"])),
            _tagged(caller, "instance", str(values.get("InstanceId", ""))),
        ]
    if caller.service == "ec2" and not str(values.get("Action")).startswith(("Describe", "Get")):
        named = [str(value) for name, value in values.items() if name.startswith(("ResourceId", "InstanceId"))]
        if named:
            keys = _SEPARATOR.join(str(value) for name, value in values.items() if re.fullmatch(r"Tag\.\d+\.Key", name))
            found = [_tagged(caller, "instance", one) for one in named]
            return [(arn, context | ({"aws:tagkeys": keys} if keys else {})) for arn, context in found]
    return [("*", {})]


def _secret(caller: Actor, name: str) -> str:
    """A secret's full ARN, which ends in letters that only AWS knows."""
    from moto.secretsmanager.models import secretsmanager_backends

    known = secretsmanager_backends[ACCOUNT][caller.region].secrets
    found = known.get(name) if name in known else None
    return str(found.arn) if found else f"arn:aws:secretsmanager:{caller.region}:{ACCOUNT}:secret:{name}"


def _group(caller: Actor, instance: str, values: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    from moto.autoscaling.models import autoscaling_backends

    groups = autoscaling_backends[ACCOUNT][caller.region].autoscaling_groups.values()
    wanted = str(values.get("AutoScalingGroupName") or values.get("Tags.member.1.ResourceId", ""))
    group = next(
        (one for one in groups if one.name == wanted or any(s.instance.id == instance for s in one.instance_states)), None
    )
    keys = _SEPARATOR.join(str(value) for name, value in values.items() if re.fullmatch(r"Tags\.member\.\d+\.Key", name))
    context = {"aws:tagkeys": keys} if keys else {}
    if group is None:
        # Nothing is told of what is not there: the request goes on, and fails on its own.
        own = next((one for one in groups if not isinstance(caller, Keeper) and one.name == caller.record.group), None)
        if own is None or wanted:
            return f"arn:aws:autoscaling:{caller.region}:{ACCOUNT}:autoScalingGroup:0:autoScalingGroupName/{wanted}", context
        group = own
    tags = {f"autoscaling:resourcetag/{tag['Key']}".lower(): tag["Value"] for tag in group.tags}
    tags |= {f"aws:resourcetag/{tag['Key']}".lower(): tag["Value"] for tag in group.tags}
    return group.arn, context | tags


def _tagged(caller: Actor, kind: str, resource: str) -> tuple[str, dict[str, str]]:
    from moto.ec2.models import ec2_backends

    found = ec2_backends[ACCOUNT][caller.region].describe_tags(filters={"resource-id": [resource]})
    tags = {f"{prefix}:resourcetag/{tag['key']}".lower(): tag["value"] for tag in found for prefix in ("aws", "ec2")}
    return f"arn:aws:ec2:{caller.region}:{ACCOUNT}:{kind}/{resource}", tags


__all__ = ["DeniedError", "allowed", "check"]
