"""Rules that a plan or a state of the module must keep, in plain Python over `terraform show -json`. Each yields a sentence for what breaks it.

What is known only once it exists (policies that name a bucket, user data) is judged in the state; the same rules run over both.
"""

import base64
import fnmatch
import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Resources = Sequence[Mapping[str, Any]]
USER_DATA_LIMIT = 16_384
TAGS = ("lamplighter:installation", "lamplighter:stack")

WITHOUT_RESOURCE: Mapping[str, str] = {
    "SeeWhatRuns": "Describe calls know no narrower resource",
    "SeePrices": "prices belong to nobody",
    "RegistryLogin": "GetAuthorizationToken names no repository",
    "SessionManager": "a session's channels have no name before they are open",
}
"""Statements that may say `*` for their resource, and why AWS lets them say nothing narrower."""

BY_TAG: Mapping[str, str] = {
    "WakeRenewAndEnd": "groups by name and tag",
    "KeepOrders": "groups by name and tag",
    "EndItself": "groups by name and tag",
    "NameReplicas": "instances by tag",
    "EndOrphans": "instances by tag",
    "AttachModels": "volumes and instances by tag",
}
"""Statements with a pattern for their resource that a condition on the stack's tag must narrow."""


def of(resources: Resources, kind: str) -> list[Mapping[str, Any]]:
    """The resources of one type."""
    return [one for one in resources if one["type"] == kind]


def metadata(resources: Resources) -> Iterator[str]:
    """No machine hands its credentials to whoever can make it fetch a URL (IMDSv1), nor to the containers on it."""
    for one in (*of(resources, "aws_launch_template"), *of(resources, "aws_instance")):
        options = (one["values"].get("metadata_options") or [{}])[0]
        if options.get("http_tokens") != "required" or options.get("http_endpoint") != "enabled":
            yield f"{one['address']}: the metadata service takes requests without a token"
        if options.get("http_put_response_hop_limit") != 1:
            yield f"{one['address']}: a container on it can take its credentials"


def encryption(resources: Resources) -> Iterator[str]:
    """Disks, queues, the bucket and images are encrypted where they lie."""
    for one in of(resources, "aws_launch_template"):
        for device in one["values"]["block_device_mappings"]:
            disk = device["ebs"][0]
            if str(disk.get("encrypted")).lower() != "true" or disk.get("volume_type") != "gp3":
                yield f"{one['address']}: {device['device_name']} is not an encrypted gp3 disk"
    for one in of(resources, "aws_instance"):
        if not all(disk["encrypted"] for disk in one["values"]["root_block_device"]):
            yield f"{one['address']}: its disk is not encrypted"
    for one in of(resources, "aws_ebs_volume"):
        if not one["values"]["encrypted"]:
            yield f"{one['address']}: not encrypted"
    for one in of(resources, "aws_sqs_queue"):
        if not one["values"]["sqs_managed_sse_enabled"]:
            yield f"{one['address']}: not encrypted"
    for one in of(resources, "aws_ecr_repository"):
        if not one["values"]["encryption_configuration"]:
            yield f"{one['address']}: not encrypted"
    if len(of(resources, "aws_s3_bucket_server_side_encryption_configuration")) < len(of(resources, "aws_s3_bucket")):
        yield "a bucket has no encryption"


def doors(resources: Resources, port: int = 4242) -> Iterator[str]:
    """The mesh's UDP port is the only one that the world reaches."""
    for one in of(resources, "aws_vpc_security_group_ingress_rule"):
        rule = one["values"]
        world = rule.get("cidr_ipv4") == "0.0.0.0/0" or rule.get("cidr_ipv6") == "::/0"
        if world and (rule["ip_protocol"], rule["from_port"], rule["to_port"]) != ("udp", port, port):
            yield f"{one['address']}: {rule['ip_protocol']} {rule['from_port']}-{rule['to_port']} is open to the world"
    for kind in ("aws_security_group", "aws_default_security_group"):
        for one in of(resources, kind):
            if kind == "aws_default_security_group" and (one["values"].get("ingress") or one["values"].get("egress")):
                yield f"{one['address']}: the default group lets something through"
    for kind in ("aws_security_group_rule", "aws_default_network_acl"):
        for one in of(resources, kind):
            yield f"{one['address']}: rules are written as aws_vpc_security_group_*_rule, where they are checked"
    for one in of(resources, "aws_vpc_security_group_egress_rule"):
        if one["values"]["ip_protocol"] == "-1":
            yield f"{one['address']}: everything may go out"


def documents(resources: Resources) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every policy document that is known, with the address of its resource."""
    for one in resources:
        if one["type"] in ("aws_vpc_endpoint", "aws_sns_topic"):
            continue  # AWS's own, which the provider shows too
        for name in ("policy", "assume_role_policy"):
            text = one["values"].get(name)
            if isinstance(text, str) and '"Statement"' in text:
                yield one["address"], json.loads(text)


def permissions(resources: Resources) -> Iterator[str]:
    """Nobody may do more than a listed reason explains."""
    for address, document in documents(resources):
        for statement in document["Statement"]:
            yield from _statement(address, statement)


def _statement(address: str, statement: Mapping[str, Any]) -> Iterator[str]:
    sid = statement.get("Sid")
    if not sid:
        yield f"{address}: a statement has no Sid"
        return
    if statement["Effect"] == "Deny":
        return
    where = f"{address}: {sid}"
    actions, targets = _many(statement["Action"]), _many(statement.get("Resource", []))
    if any("*" in action for action in actions) or "NotAction" in statement:
        yield f"{where}: an action is a pattern"
    if "*" in targets and sid not in WITHOUT_RESOURCE:
        yield f"{where}: any resource"
    if statement.get("Principal") == "*":
        yield f"{where}: anybody"
    patterns = [one for one in targets if one != "*" and fnmatch.fnmatch(one, "*[*]") and not re.search(r"(:::|/)[^*]*/\*$", one)]
    named = [one for one in patterns if not re.search(r"parameter/[^*]+/\*$", one)]
    tag = statement.get("Condition", {}).get("StringEquals", {}).get("aws:ResourceTag/lamplighter:stack")
    if named and (sid not in BY_TAG or not tag):
        yield f"{where}: {named[0]} is not narrowed by the stack's tag"


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def tags(resources: Resources) -> Iterator[str]:
    """What is ours says so: else the keeper cannot see it, and nobody finds it on the bill."""
    for one in resources:
        if one["type"] == "aws_autoscaling_group":
            own = {tag["key"] for tag in one["values"]["tag"] if tag["propagate_at_launch"]}
            missing = {*TAGS, "lamplighter:pool"} - own
        elif "tags" in one["values"]:
            missing = set(TAGS) - set(one["values"]["tags"] or {})
        else:
            continue
        if missing:
            yield f"{one['address']}: lacks the tags {', '.join(sorted(missing))}"
    for one in of(resources, "aws_launch_template"):
        for specification in one["values"]["tag_specifications"]:
            if {*TAGS, "lamplighter:pool"} - set(specification["tags"]):
                yield f"{one['address']}: a {specification['resource_type']} of it lacks our tags"


def groups(resources: Resources) -> Iterator[str]:
    """A group begins at nothing, and nothing keeps it from going back there."""
    for one in of(resources, "aws_autoscaling_group"):
        group = one["values"]
        spread = group["mixed_instances_policy"][0]["instances_distribution"][0]
        if group["min_size"] != 0:
            yield f"{one['address']}: keeps {group['min_size']} machines"
        if group["protect_from_scale_in"]:
            yield f"{one['address']}: its machines are protected from the dead-man"
        if group["termination_policies"] != ["NewestInstance"]:
            yield f"{one['address']}: ends {group['termination_policies']}"
        share = 0 if group["name"].endswith("-spot") else 100
        if (spread["on_demand_base_capacity"], spread["on_demand_percentage_above_base_capacity"]) != (0, share):
            yield f"{one['address']}: buys on another market than its name says"
    for one in of(resources, "aws_launch_template"):
        if one["values"]["instance_market_options"]:
            yield f"{one['address']}: AWS refuses market options in a mixed-instances group"
        if one["values"]["instance_initiated_shutdown_behavior"] != "terminate":
            yield f"{one['address']}: a machine that shuts down is kept, and its disk billed"


def dead_men(resources: Resources) -> Iterator[str]:
    """Each group is set to zero inside AWS again and again unless somebody renews it."""
    actions = {one["values"]["autoscaling_group_name"]: one["values"] for one in of(resources, "aws_autoscaling_schedule")}
    for one in of(resources, "aws_autoscaling_group"):
        action = actions.get(one["values"]["name"])
        if action is None:
            yield f"{one['address']}: has no dead-man"
        elif (action["scheduled_action_name"], action["min_size"], action["desired_capacity"]) != ("dead-man", 0, 0):
            yield f"{one['address']}: its scheduled action does not set it to zero"
        elif not re.fullmatch(r"\*/\d+ \* \* \* \*", action["recurrence"] or ""):
            yield f"{one['address']}: its dead-man acts at {action['recurrence']} only"


def warnings(resources: Resources) -> Iterator[str]:
    """A person hears of money and of machines that run on."""
    budgets = of(resources, "aws_budgets_budget")
    if not budgets:
        yield "there is no budget"
    for one in budgets:
        kinds = {notice["notification_type"] for notice in one["values"]["notification"]}
        if kinds != {"ACTUAL", "FORECASTED"}:
            yield f"{one['address']}: does not warn of what is spent and of what is forecast"
    watched = {
        (alarm["values"].get("dimensions") or {}).get(name)
        for alarm in of(resources, "aws_cloudwatch_metric_alarm")
        for name in ("AutoScalingGroupName", "QueueName")
    }
    for one in of(resources, "aws_autoscaling_group"):
        if one["values"]["name"] not in watched:
            yield f"{one['address']}: no alarm tells that it runs for long"
    for one in of(resources, "aws_sqs_queue"):
        if one["values"]["name"].endswith("-dead") and one["values"]["name"] not in watched:
            yield f"{one['address']}: no alarm tells that something lies in it"


def privacy(resources: Resources) -> Iterator[str]:
    """The bucket is nobody else's."""
    blocks = of(resources, "aws_s3_bucket_public_access_block")
    if len(blocks) < len(of(resources, "aws_s3_bucket")):
        yield "a bucket has no public access block"
    for one in blocks:
        for name in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"):
            if not one["values"][name]:
                yield f"{one['address']}: {name} is off"
    for kind in ("aws_s3_bucket_policy", "aws_sqs_queue", "aws_sns_topic_policy"):
        for one in of(resources, kind):
            text = one["values"].get("policy")
            if isinstance(text, str) and '"aws:SecureTransport":"false"' not in text.replace(" ", ""):
                yield f"{one['address']}: takes requests without TLS"


def senders(resources: Resources) -> Iterator[str]:
    """A service of AWS may act on our queues and topics for this account only, not for whoever asks it to."""
    for address, document in documents(resources):
        for statement in document["Statement"]:
            principal = statement.get("Principal")
            service = principal.get("Service") if isinstance(principal, dict) else None
            if statement["Effect"] != "Allow" or service in (None, "ec2.amazonaws.com"):
                continue
            asked = {name for condition in statement.get("Condition", {}).values() for name in condition}
            if not asked & {"aws:SourceArn", "aws:SourceAccount"}:
                yield f"{address}: {service} may write for any account"


def user_data(resources: Resources) -> Iterator[str]:
    """EC2 takes 16 KB, and cloud-init must find a script in it."""
    for one in of(resources, "aws_launch_template"):
        encoded = one["values"].get("user_data")
        if not encoded:
            continue
        data = base64.b64decode(encoded)
        script = gzip.decompress(data)
        if len(data) > USER_DATA_LIMIT:
            yield f"{one['address']}: {len(data)} bytes of user data"
        if not script.startswith(b"#!"):
            yield f"{one['address']}: its user data is no script"
        if b"@NODE_JSON@" in script or b"@AGENT@" in script:
            yield f"{one['address']}: its user data has an unfilled place"


_SECRET = re.compile(r"PRIVATE KEY|AKIA[A-Z0-9]{12}|\bhf_[A-Za-z0-9]{20}|\bsk-[A-Za-z0-9]{20}|\bghp_[A-Za-z0-9]{20}")


def secrets(resources: Resources) -> Iterator[str]:
    """Terraform's state is a file in clear: nothing secret may pass through it."""
    for one in resources:
        if one["type"] == "aws_secretsmanager_secret_version":
            yield f"{one['address']}: the value of a secret stands in the state"
        found = _SECRET.search(json.dumps(one["values"]))
        if found:
            yield f"{one['address']}: holds {found[0]!r}"


def unknown_actions(resources: Resources) -> Iterator[str]:
    """Permissions that name no call of AWS: IAM takes them in silence, and the call that was meant is refused at three in the morning."""
    import botocore.session

    session = botocore.session.get_session()
    for address, document in documents(resources):
        for statement in document["Statement"]:
            for action in _many(statement["Action"]):
                prefix, _, call = str(action).partition(":")
                if call in ("*", "AssumeRole") or action in _NOT_CALLS:
                    continue
                model = session.get_service_model(_SERVICES.get(prefix, prefix))
                if call not in model.operation_names:
                    yield f"{address}: {action} is no call of AWS"


_SERVICES = {"servicequotas": "service-quotas", "tag": "resourcegroupstaggingapi"}
_NOT_CALLS = frozenset(
    {
        "s3:ListBucket",  # allows ListObjectsV2
        "ssm:UpdateInstanceInformation",  # this and the next are the session agent's own
        *(f"ssmmessages:{verb}{kind}Channel" for verb in ("Create", "Open") for kind in ("Control", "Data")),
    }
)

RULES: tuple[Callable[[Resources], Iterator[str]], ...] = (
    metadata, encryption, doors, permissions, tags, groups, dead_men, warnings, privacy, senders, user_data, secrets,
)  # fmt: skip


def findings(resources: Resources) -> list[str]:
    """Everything that breaks a rule."""
    return [sentence for rule in RULES for sentence in rule(resources)]
