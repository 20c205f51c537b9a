"""The node's calls to AWS: signed as AWS's own library signs them, and each in the form that its service reads."""

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from lamplighter.node.aws import Aws, Metadata, fetch, sign
from lamplighter.node.basics import Settings
from tests.node.cloud import CREDENTIALS, INSTANCE, ROLE, Cloud

AT = 1_795_900_000.0
HOST = "eu-central-1.amazonaws.com"
FORM = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
JSON = {"content-type": "application/x-amz-json-1.1"}


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """AWS on loopback."""
    with Cloud() as running:
        yield running


@pytest.fixture
def aws(cloud: Cloud) -> Aws:
    """The node's side."""
    settings = Settings.parse(cloud.node_json())
    return Aws(settings, Metadata(settings.url("metadata", "")))


@pytest.mark.parametrize(
    ("service", "method", "url", "headers", "body"),
    [
        ("sqs", "POST", f"https://sqs.{HOST}/123456789012/lamplighter-nodes", FORM, b"Action=SendMessage"),
        ("autoscaling", "POST", f"https://autoscaling.{HOST}", FORM, b"Action=X&InstanceId=i-1"),
        ("secretsmanager", "POST", f"https://secretsmanager.{HOST}", JSON | {"x-amz-target": "secretsmanager.GetSecretValue"}, b"{}"),
        ("s3", "GET", f"https://bucket.s3.{HOST}/nodes/AROAX%3Ai-1/assignment.json", {}, b""),
        ("s3", "PUT", f"https://bucket.s3.{HOST}/nodes/AROAX%3Ai-1/logs/agent.log", {"content-type": "text/plain"}, "ä".encode()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("token", ["a-session-token", ""])
def test_signatures_are_those_of_botocore(
    service: str, method: str, url: str, headers: dict[str, str], body: bytes, token: str
) -> None:
    """AWS answers 403 to anything else, and then nobody hears of the node and it cannot end itself."""
    keys = {"AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "Token": token}
    ours = sign(method, url, headers, body, keys, "eu-central-1", service, AT)
    request = AWSRequest(method=method, url=url, headers=headers, data=body)
    kind = S3SigV4Auth if service == "s3" else SigV4Auth
    signer = kind(Credentials(keys["AccessKeyId"], keys["SecretAccessKey"], token or None), service, "eu-central-1")
    when = dt.datetime.fromtimestamp(AT, dt.UTC)
    with mock.patch("botocore.auth.get_current_datetime", return_value=when):
        signer.add_auth(request)
    assert ours["authorization"] == request.headers["Authorization"]
    for name in ("x-amz-date", "x-amz-security-token"):
        assert ours.get(name) == request.headers.get(name)


def test_a_message_arrives_whole(cloud: Cloud, aws: Aws) -> None:
    """The keeper reads JSON: special characters and line breaks in a reason must survive."""
    aws.send({"kind": "end", "detail": 'a & b = "ü"\n+ 100 %'})
    assert cloud.messages == [{"kind": "end", "detail": 'a & b = "ü"\n+ 100 %'}]
    assert not cloud.unsigned


def test_what_is_not_there_yet_is_no_failure(cloud: Cloud, aws: Aws) -> None:
    """Until the keeper writes the assignment, S3 answers 403: the node may not list. It must go on asking."""
    key = f"nodes/{ROLE}:{INSTANCE}/assignment.json"
    assert aws.get(key) is None
    cloud.objects[key] = b"{}"
    assert aws.get(key) == b"{}"


def test_logs_are_readable_after_death(cloud: Cloud, aws: Aws) -> None:
    """The last words lie in the bucket under the name that AWS itself gives the node."""
    aws.put(f"nodes/{ROLE}:{INSTANCE}/logs/agent.log", b"last words")
    assert cloud.objects == {f"nodes/{ROLE}:{INSTANCE}/logs/agent.log": b"last words"}


def test_the_end_lowers_the_desired_capacity(cloud: Cloud, aws: Aws) -> None:
    """Without the decrement the group would launch the next machine at once."""
    aws.terminate(INSTANCE)
    assert cloud.terminated() == [{"Version": "2011-01-01", "InstanceId": INSTANCE, "ShouldDecrementDesiredCapacity": "true"}]


def test_secrets_volumes_and_the_registrys_password(cloud: Cloud, aws: Aws) -> None:
    """The three other calls, each in its service's own form."""
    cloud.secrets["hub"] = "hf_token"
    assert aws.secret("hub") == "hf_token"
    assert aws.registry_password() == "registry-password"
    aws.attach("vol-1", INSTANCE)
    assert cloud.calls[-1][1:] == (
        "AttachVolume",
        {"Version": "2016-11-15", "VolumeId": "vol-1", "InstanceId": INSTANCE, "Device": "/dev/sdf"},
    )


@pytest.mark.parametrize("service", ["sqs", "s3", "autoscaling", "ec2", "secretsmanager"])
def test_a_service_that_is_out_of_order_is_an_oserror(cloud: Cloud, aws: Aws, service: str) -> None:
    """Every caller retries on that; anything else would end its thread."""
    cloud.broken.add(service)
    calls: dict[str, Any] = {
        "sqs": lambda: aws.send({}),
        "s3": lambda: aws.get("x"),
        "autoscaling": lambda: aws.terminate("i"),
        "ec2": lambda: aws.attach("v", "i"),
        "secretsmanager": lambda: aws.secret("s"),
    }
    with pytest.raises(OSError, match="503"):
        calls[service]()


def test_the_metadata_service_is_asked_with_a_token_and_credentials_are_kept(cloud: Cloud) -> None:
    """Version 1 is switched off on our machines; and asking for credentials at every call would be throttled."""
    metadata = Metadata(f"{cloud.url}/metadata")
    assert metadata.get("instance-id") == INSTANCE
    assert metadata.get("spot/instance-action") is None
    assert metadata.credentials() == CREDENTIALS
    cloud.metadata["iam/security-credentials/node-role"] = json.dumps({**CREDENTIALS, "AccessKeyId": "ASIAOTHER"})
    assert metadata.credentials()["AccessKeyId"] == "ASIAEXAMPLE"


def test_a_machine_without_a_role_or_with_a_stale_token_says_so(cloud: Cloud) -> None:
    """Both happen in the first second of a machine's life, and both pass."""
    metadata = Metadata(f"{cloud.url}/metadata")
    del cloud.metadata["iam/security-credentials/"]
    with pytest.raises(OSError, match="no role"):
        metadata.credentials()
    metadata._token = "stale"
    with pytest.raises(OSError, match="401"):
        metadata.get("instance-id")
    assert metadata.get("instance-id") == INSTANCE


def test_nobody_there_is_an_oserror() -> None:
    """A connection refused, a name unknown, an answer that is no HTTP: one kind of failure for the callers."""
    for url in ("http://127.0.0.1:1/", "http://name.invalid/"):
        with pytest.raises(OSError):  # noqa: PT011 - whatever the system says
            fetch("GET", url, {}, timeout=1)


def test_real_addresses_when_nothing_stands_in() -> None:
    """What is used in production is used in no other test: it must at least be spelled right, China's suffix included."""
    base = {
        "version": 1, "region": "eu-central-1", "nodes_queue_url": "https://sqs.eu-central-1.amazonaws.com/1/q", "bucket": "b", "node_role_id": "A",
        "boot_deadline": 1, "lease": 1, "drain": 1,
    }  # fmt: skip
    for region, suffix in (("eu-central-1", "amazonaws.com"), ("cn-north-1", "amazonaws.com.cn")):
        made = Aws(Settings.parse(base | {"region": region}), Metadata(""))
        assert made._endpoint("autoscaling") == f"https://autoscaling.{region}.{suffix}"
        assert made._object("nodes/A:i-1/assignment.json") == f"https://b.s3.{region}.{suffix}/nodes/A%3Ai-1/assignment.json"
