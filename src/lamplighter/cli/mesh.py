"""`lamplighter mesh`: the Nebula mesh's authorities and certificates."""

from dataclasses import asdict
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from lamplighter.cli import mesh_keys, mesh_network, mesh_rotation
from lamplighter.cli.config import ConfigOption
from lamplighter.cli.invocation import DataOption, JsonOption, table
from lamplighter.cli.mesh_common import CaKeyOption, Desk, life, read_input
from lamplighter.cli.words import ago, ahead
from lamplighter.core.errors import LamplighterError

if TYPE_CHECKING:
    from lamplighter.mesh.certificates import Certificate
    from lamplighter.mesh.storage import Kind, Record

mesh = typer.Typer(help="The Nebula mesh: authorities, certificates, rotation, revocation.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    app.add_typer(mesh, name="mesh")


mesh_rotation.register(mesh)
mesh_keys.register(mesh)
mesh_network.register(mesh)


@mesh.command("init")
def init(
    context: typer.Context,
    offline_days: Annotated[
        float | None, typer.Option("--offline-days", help="Life of the offline authority; default: five years.")
    ] = None,
    online_days: Annotated[
        float | None, typer.Option("--online-days", help="Life of the online authority; default: a year.")
    ] = None,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make both authorities, each with an encrypted key. What is there stays.

    The offline one certifies people, home and lighthouses, and needs you. The online one certifies cloud nodes, and the keeper uses it."""
    from lamplighter.mesh.administration import make_authority
    from lamplighter.mesh.storage import Role

    desk = Desk.at(context, named)
    desk.invocation.folder.prepare()
    days: dict[Role, float | None] = {"online": life(online_days), "offline": life(offline_days)}
    answer = []
    for (
        role,
        days_of_life,
    ) in days.items():  # the online one first: it needs no person, and may show that the configuration is incomplete
        there = [one for one in desk.folder.read().authorities.values() if one.role == role and one.state == "active"]
        if there:
            record, made = there[0], False
            if role == "online":
                desk.key_of(record)  # the keeper's passphrase opens it: better to know now than at night
        else:
            record, made = make_authority(
                desk.folder, desk.config, role, desk.passphrase(role, new=True), desk.now, life=days_of_life
            )
        desk.invocation.note(
            f"{'Made the' if made else 'There is the'} {role} authority {record.fingerprint[:16]}, "
            f"valid for {ahead(record.parsed().not_after - desk.now)}{' more' if not made else ''}."
        )
        answer.append({"role": role, "fingerprint": record.fingerprint, "made": made, "not_after": record.parsed().not_after})
    desk.invocation.note(
        "Next: certify lighthouse and home (`lamplighter mesh sign NAME --kind lighthouse`, `--kind home`), "
        "then take the offline key away (`lamplighter mesh export offline --out FILE --remove`)."
    )
    if desk.invocation.json:
        desk.invocation.show({"authorities": answer})


@mesh.command("sign")
def sign(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The node's name.")],
    kind: Annotated[
        str, typer.Option("--kind", help="lighthouse, home, laptop or gpu: decides groups, life, address and authority.")
    ],
    public_key: Annotated[
        str | None,
        typer.Option(
            "--public-key", metavar="FILE", help="The node's public key; `-`: standard input. Default: the pair is made here."
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Its address in the mesh; default: by the configuration, or a free one.")
    ] = None,
    groups: Annotated[str | None, typer.Option("--groups", metavar="A,B", help="Its groups; default: by its kind.")] = None,
    days: Annotated[float | None, typer.Option("--days", help="How long it is valid; default: by its kind.")] = None,
    ca_key: CaKeyOption = None,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Certify a node: from its public key, or with a pair that is made here.

    Its files go to `mesh/nodes/NAME` in the data folder. Asked again it renews."""
    from lamplighter.mesh.administration import SignRequest
    from lamplighter.mesh.administration import sign as do_sign
    from lamplighter.mesh.issuing import role_of

    desk = Desk.at(context, named)
    chosen = _kind(kind)
    if public_key == "-" and ca_key == "-":
        raise LamplighterError("standard input can give one of them only", next_step="Put the public key into a file.")
    request = SignRequest(
        name=name,
        kind=chosen,
        public_key_pem=None if public_key is None else read_input(public_key),
        address=_address(address),
        groups=None if groups is None else [one.strip() for one in groups.split(",") if one.strip()],
        life=life(days),
    )
    record = do_sign(desk.folder, desk.config, request, desk.key(role_of(chosen), ca_key), desk.now)
    where = desk.folder.node(name)
    desk.invocation.note(
        f"{name!r} is {record.address} in group {', '.join(record.groups) or 'none'}, valid for {ahead(record.not_after - desk.now)}. "
        + (
            "Give it node.crt and ca.crt from:"
            if public_key
            else "Give it node.crt, node.key and ca.crt (the key over a safe way) from:"
        )
    )
    desk.invocation.show({**_record(record), "certificate": record.certificate, "folder": str(where)}, str(where))


@mesh.command("list")
def list_(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Expired, revoked and renewed certificates too.")] = False,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List authorities and certificates, and say what expires soon."""
    from lamplighter.mesh.listing import authorities, certificates, warnings

    desk = Desk.at(context, named)
    index, now = desk.folder.read(), desk.now
    cas = authorities(desk.folder, index, now)
    certs = [one for one in certificates(index, now) if every or one.standing in {"valid", "expiring"}]
    says = warnings(desk.folder, now)
    if desk.invocation.json:
        desk.invocation.show(
            {"authorities": [asdict(one) for one in cas], "certificates": [asdict(one) for one in certs], "warnings": says}
        )
        return
    if not cas:
        desk.invocation.note("There is no authority yet: `lamplighter mesh init` makes both.")
    rows = [
        (f"{one.role} authority", one.state, "", ", ".join(one.groups) or "any group", _until(one.not_after, now), one.fingerprint[:16],
         "here" if one.key_here else "offline")
        for one in cas
    ]  # fmt: skip
    rows += [
        (one.name, one.standing, one.address, ", ".join(one.groups), _until(one.not_after, now), one.fingerprint[:16], one.kind)
        for one in certs
    ]
    desk.invocation.show(None, table(("name", "state", "address", "groups", "until", "fingerprint", "kind or key"), rows))
    for sentence in says:
        desk.invocation.note(sentence)


@mesh.command("inspect")
def inspect(
    context: typer.Context,
    which: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A certificate's file, `-`, or the name of a node.")],
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a certificate says, and whether this mesh trusts it. Exit status 1 when it does not."""
    from lamplighter.mesh.administration import current
    from lamplighter.mesh.certificates import parse, parse_bundle, verify
    from lamplighter.mesh.errors import MeshError, NotTrusted
    from lamplighter.mesh.publishing import bundle

    desk = Desk.at(context, named)
    index = desk.folder.read()
    if which == "-" or Path(which).expanduser().is_file():
        certificate = parse(read_input(which))
    else:
        try:
            certificate = parse(current(index, which, desk.now).certificate)
        except MeshError as error:
            raise MeshError(
                f"there is no file and no node {which!r}", code="no_certificate", next_step="`lamplighter mesh list --all` shows the nodes."
            ) from error  # fmt: skip
    trusted = parse_bundle(bundle(index))
    problem: str | None = None
    if certificate.is_ca:
        if certificate.fingerprint not in trusted:
            problem = f"the authority {certificate.name!r} is not in this mesh's bundle"
        elif not certificate.valid_at(desk.now):
            problem = f"the authority {certificate.name!r} is expired or not yet valid"
    else:
        try:
            verify(certificate, trusted, desk.now, index.blocklist)
        except NotTrusted as error:
            problem = error.message
    answer = {**_certificate(certificate), "trusted": problem is None, "problem": problem}
    lines = [f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in answer.items() if key not in {"problem", "trusted"}]
    lines.append(f"trusted: {'yes' if problem is None else f'no: {problem}'}")
    desk.invocation.show(answer, "\n".join(lines))
    if problem is not None:
        raise typer.Exit(1)


@mesh.command("renew")
def renew(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="The nodes; none: those that expire soon.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every node with a valid certificate, save the keeper's cloud nodes.")
    ] = False,
    ca_key: CaKeyOption = None,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign the same keys, addresses and groups again. The old certificates stay valid until they expire."""
    from lamplighter.mesh.administration import current
    from lamplighter.mesh.administration import renew as do_renew
    from lamplighter.mesh.issuing import role_of
    from lamplighter.mesh.listing import certificates

    desk = Desk.at(context, named)
    index = desk.folder.read()
    chosen = list(dict.fromkeys(names or ()))
    if not chosen:
        wanted = {"valid", "expiring"} if every else {"expiring"}
        chosen = [one.name for one in certificates(index, desk.now) if one.standing in wanted and one.kind != "gpu"]
    roles = sorted({role_of(current(index, name, desk.now).kind) for name in chosen})
    records = (
        do_renew(desk.folder, desk.config, chosen, {role: desk.key(role, ca_key) for role in roles}, desk.now) if chosen else []
    )
    for record in records:
        where = desk.folder.node(record.name)
        desk.invocation.note(
            f"{record.name!r} is valid for {ahead(record.not_after - desk.now)}: bring {where / 'node.crt'} to it."
        )
    if not records:
        desk.invocation.note("Nothing expires soon.")
    if desk.invocation.json:
        desk.invocation.show({"renewed": [_record(record) for record in records]})
    if records:
        desk.publish(after="The certificates were renewed")


@mesh.command("revoke")
def revoke(
    context: typer.Context,
    which: Annotated[str, typer.Argument(metavar="NAME|FINGERPRINT", help="The node, or the beginning of a fingerprint.")],
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put every valid certificate of a node on the blocklist, for good, and publish that. Revoking twice is no error."""
    from lamplighter.mesh.administration import revoke as do_revoke

    desk = Desk.at(context, named)
    records = do_revoke(desk.folder, which, desk.now)
    desk.invocation.note(
        f"Revoked {len(records)} certificate{'s' if len(records) != 1 else ''} of {records[0].name!r}."
        if records
        else f"{which!r} has no valid certificate (any more)."
    )
    if desk.invocation.json:
        desk.invocation.show({"revoked": [_record(record) for record in records]})
    desk.publish(after=f"{which!r} is revoked")
    desk.invocation.note("The keeper gives the blocklist to cloud nodes; bring blocklist.yml to lighthouses and laptops.")


@mesh.command("publish")
def publish(
    context: typer.Context,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give this machine's Nebula bundle, blocklist and its renewed certificate, and make it read them (`mesh.reload`)."""
    from lamplighter.mesh.publishing import publish as do_publish
    from lamplighter.mesh.publishing import target

    desk = Desk.at(context, named)
    do_publish(desk.folder, desk.config, now=desk.now, always=True)
    where = target(desk.folder, desk.config)
    reloaded = desk.config.reload is not None
    desk.invocation.show({"folder": str(where), "reloaded": reloaded}, str(where))
    if not reloaded:
        desk.invocation.note(
            "No mesh.reload is set: Nebula reads them on its own only where a path unit or a person sends SIGHUP."
        )


def _kind(text: str) -> "Kind":
    from lamplighter.mesh.storage import Kind

    for kind in get_args(Kind):
        if text == kind:
            return kind  # type: ignore[no-any-return]
    raise LamplighterError(f"there is no kind {text!r} of nodes", next_step="Use lighthouse, home, laptop or gpu.")


def _address(text: str | None) -> IPv4Address | None:
    try:
        return None if text is None else IPv4Address(text)
    except AddressValueError as error:
        raise LamplighterError(f"--address: {text!r} is no IPv4 address", next_step="Such as 10.77.0.20.") from error


def _record(record: "Record") -> dict[str, Any]:
    return {
        "name": record.name,
        "kind": record.kind,
        "fingerprint": record.fingerprint,
        "address": record.address,
        "groups": list(record.groups),
        "not_after": record.not_after,
        "authority": record.authority,
    }


def _certificate(certificate: "Certificate") -> dict[str, Any]:
    from datetime import UTC, datetime

    def moment(seconds: int) -> str:
        try:
            return datetime.fromtimestamp(seconds, UTC).isoformat()
        except (OverflowError, ValueError, OSError):  # a year that no calendar has
            return str(seconds)

    return {
        "name": certificate.name,
        "version": certificate.version,
        "authority": certificate.is_ca,
        "networks": [str(one) for one in certificate.networks],
        "unsafe_networks": [str(one) for one in certificate.unsafe_networks],
        "groups": list(certificate.groups),
        "not_before": moment(certificate.not_before),
        "not_after": moment(certificate.not_after),
        "issuer": certificate.issuer or None,
        "public_key": certificate.public_key.hex(),
        "fingerprint": certificate.fingerprint,
    }


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _until(not_after: float, now: float) -> str:
    return f"in {ahead(not_after - now)}" if not_after >= now else f"expired {ago(now - not_after)}"
