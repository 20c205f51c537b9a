"""Instances as EC2 has them: pending before running, shutting down before terminated, visible afterwards, and with what their template says."""

import copy
from collections.abc import Sequence
from typing import Any

from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import Instance, InstanceBackend, InstanceState, StateReason
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import convert_tag_spec

from lamplighter.testing.aws import events, images
from lamplighter.testing.aws.capacity import ON_DEMAND, SPOT
from lamplighter.testing.aws.guard import ACCOUNT
from lamplighter.testing.aws.replacing import replace
from lamplighter.testing.aws.world import Record, current

USER = "Client.UserInitiatedShutdown"
INSIDE = "Client.InstanceInitiatedShutdown"
RECLAIMED = "Server.SpotInstanceTermination"
_REASONS = {
    USER: "Client.UserInitiatedShutdown: User initiated shutdown",
    INSIDE: "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
    RECLAIMED: "Server.SpotInstanceTermination: Spot instance termination",
}
LIVE = ("pending", "running")
_RESOLVE = "resolve:ssm:"
_terminate = Instance.terminate
_run_instances = InstanceBackend.run_instances


def launch(
    backend: Any, data: dict[str, Any], *, instance_type: str, market: str, subnet: str | None, zone: str,
    tags: dict[str, str], group: str | None, template: dict[str, Any] | None,
) -> Record:  # fmt: skip
    """One instance of a launch template's `data`, pending."""
    nics = data.get("NetworkInterfaces") or [{}]
    groups = list(data.get("SecurityGroupIds") or nics[0].get("Groups") or [])
    public = nics[0].get("AssociatePublicIpAddress")
    volume_tags = convert_tag_spec(data.get("TagSpecifications") or []).get("volume", {})
    options: dict[str, Any] = {
        "instance_type": instance_type, "is_instance_type_default": False, "region_name": backend.region_name,
        "placement": zone, "subnet_id": subnet, "security_group_ids": groups, "tags": {"instance": tags, "volume": volume_tags},
        "metadata_options": data.get("MetadataOptions") or {}, "lifecycle": SPOT if market == SPOT else None,
        "associate_public_ip": None if public is None else str(public).lower() == "true", "launch_template": template,
        "instance_initiated_shutdown_behavior": data.get("InstanceInitiatedShutdownBehavior"),
        "ebs_optimized": str(data.get("EbsOptimized")).lower() == "true",
    }  # fmt: skip
    # Without, moto would make a disk of its own, and lose it when the template names another one.
    if data.get("BlockDeviceMappings"):
        options["block_device_mappings"] = data["BlockDeviceMappings"]
    reservation = _run_instances(
        backend,
        image(backend, data.get("ImageId", "")),
        1,
        data.get("UserData"),
        list(data.get("SecurityGroups") or []),
        **options,
    )
    instance = reservation.instances[0]
    for nic in instance.nics.values():
        nic.delete_on_termination = True
    profile = data.get("IamInstanceProfile") or {}
    if profile:
        wanted = {"iam_instance_profile_name": profile.get("Name"), "iam_instance_profile_arn": profile.get("Arn")}
        backend.associate_iam_instance_profile(instance_id=instance.id, **wanted)
    return enrol(backend, instance, market, group)


def image(backend: Any, value: str) -> str:
    """An image's id, also by the name of an SSM parameter, as launch templates may say."""
    if not value.startswith(_RESOLVE):
        return value
    from moto.ssm.models import ssm_backends

    found = ssm_backends[backend.account_id][backend.region_name].get_parameter(value.removeprefix(_RESOLVE))
    return "" if found is None else str(found.value)


def enrol(backend: Any, instance: Any, market: str, group: str | None) -> Record:
    """Take a new instance into the world: pending, then running."""
    world = current()
    record = Record(instance, backend.region_name, market, group)
    world.records[instance.id] = record
    _set(record, "pending", 0)
    world.after(world.pace.pending, lambda: _begin(record))
    return record


def _begin(record: Record) -> None:
    if record.instance.state != "pending":
        return
    _set(record, "running", 16)
    world = current()
    for state in _memberships(record.instance.id):
        state.lifecycle_state = "InService"
    world.tell(world.appeared, record.instance.id)


def _set(record: Record, name: str, code: int) -> None:
    record.instance._state = InstanceState(name, code)  # noqa: SLF001 - moto has no other way
    current().history.append((current().now(), record.instance.id, name))
    events.state_changed(record, name)


def end(record: Record, why: str) -> None:
    """Begin to terminate it; `why`: USER, INSIDE or RECLAIMED. Nothing happens to one that ends already."""
    from lamplighter.testing.aws import groups

    if record.instance.state not in (*LIVE, "stopping", "stopped"):
        return
    world = current()
    record.ended_by = why
    role_of(record)  # remembered: moto takes it away with the machine
    _set(record, "shutting-down", 32)
    for state in _memberships(record.instance.id):
        if state.lifecycle_state in ("Pending", "InService") and why != USER:
            state.health_status = "Unhealthy"
    world.after(world.pace.shutdown, lambda: _gone(record))
    groups.ended_by_itself(record.instance.id)
    world.tell(world.vanished, record.instance.id)


def _gone(record: Record) -> None:
    instance, world = record.instance, current()
    _terminate(instance)
    instance.state_reason = StateReason(_REASONS[record.ended_by], record.ended_by)
    events.state_changed(record, "terminated")
    world.after(world.pace.forget, lambda: _forget(record))


def _forget(record: Record) -> None:
    backend = ec2_backends[ACCOUNT][record.region]
    current().records.pop(record.instance.id, None)
    for key, reservation in list(backend.reservations.items()):
        if record.instance in reservation.instances:
            reservation.instances.remove(record.instance)
        if not reservation.instances:
            backend.reservations.pop(key, None)


def _memberships(instance_id: str) -> list[Any]:
    from moto.autoscaling.models import autoscaling_backends

    return [
        state
        for backend in autoscaling_backends[ACCOUNT].values()
        for group in backend.autoscaling_groups.values()
        for state in group.instance_states
        if state.instance.id == instance_id
    ]


def _terminate_all(self: Any, instance_ids: Sequence[str]) -> list[tuple[Any, InstanceState]]:
    """TerminateInstances: ends begin; what is gone already is fine."""
    ended = []
    for instance in self.get_multi_instances_by_id(instance_ids):
        before = copy.copy(instance._state)  # noqa: SLF001 - moto has no other way
        if record := current().records.get(instance.id):
            end(record, USER)
        else:
            _terminate(instance)
        ended.append((instance, before))
    return ended


def _run(self: Any, image_id: str, count: int, user_data: Any, security_group_names: list[str], **kwargs: Any) -> Any:
    """RunInstances by a person, such as for a lighthouse or a bake."""
    reservation = _run_instances(self, image_id, count, user_data, security_group_names, **kwargs)
    for instance in reservation.instances:
        enrol(self, instance, SPOT if instance.lifecycle == "spot" else ON_DEMAND, None)
    return reservation


def _answer(self: InstanceResponse) -> Any:
    """TerminateInstances' answer, with the states as they are."""
    from moto.core.responses import ActionResult

    ids = self._get_param("InstanceIds", [])
    self.error_on_dryrun()
    ended = self.ec2_backend.terminate_instances(ids)
    return ActionResult({
        "TerminatingInstances": [
            {"InstanceId": one.id, "CurrentState": {"Code": one.state_code, "Name": one.state}, "PreviousState": before}
            for one, before in ended
        ]
    })  # fmt: skip


def role_of(record: Record) -> Any | None:
    """The IAM role of the instance's profile; None without one."""
    backend = ec2_backends[ACCOUNT][record.region]
    association = backend.iam_instance_profile_associations.get(record.instance.id)
    if association is not None and association.iam_instance_profile.roles:
        record.role = association.iam_instance_profile.roles[0]
    return record.role


def install() -> None:
    """Put these in the place of moto's."""
    images.install()
    replace(InstanceBackend, terminate_instances=_terminate_all, run_instances=_run)
    replace(InstanceResponse, terminate_instances=_answer)
