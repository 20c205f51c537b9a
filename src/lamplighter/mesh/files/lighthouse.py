"""Keeps a lighthouse in EC2 up to date: installs Nebula once, then reads its files from the Parameter Store and makes Nebula read them again.

Runs on that machine alone, so it knows the standard library only, of Python 3.9
(Amazon Linux 2023). `install` does the first, no argument the second; a timer repeats it every
minute. What Nebula would refuse never replaces what it runs with.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request
from typing import Any

SETTINGS = pathlib.Path("/usr/local/lib/lamplighter/lighthouse.json")
NEEDED = {"ca.crt", "node.crt", "node.key", "config.yml"}
KNOWN = NEEDED | {"blocklist.yml"}
LIMIT = 20


def main(arguments: list[str], file: pathlib.Path = SETTINGS) -> None:
    """Do what the argument says, with the settings in `file`."""
    settings = json.loads(file.read_text())
    if arguments == ["install"]:
        install(settings)
    else:
        refresh(settings)


def install(settings: dict[str, Any]) -> None:
    """Put the pinned release's programs in place; a download that is not what was pinned ends in an error."""
    programs = pathlib.Path(settings["programs"])
    if (programs / "nebula").exists():
        return
    content = ask(settings["archive"], "GET", {})
    found = hashlib.sha256(content).hexdigest()
    if found != settings["sha256"]:
        sys.exit(f"{settings['archive']} is {found}, not {settings['sha256']}")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in ("nebula-cert", "nebula"):
            new = programs / f".{name}.new"
            program = archive.extractfile(name)
            if program is None:
                sys.exit(f"{settings['archive']} holds no program {name}")
            with program, new.open("wb") as target:
                shutil.copyfileobj(program, target)
            new.chmod(0o755)
            new.rename(programs / name)


def refresh(settings: dict[str, Any]) -> None:
    """Write what differs and make Nebula read it again."""
    wanted = parameters(settings)
    if lacking := NEEDED - wanted.keys():
        sys.exit(f"not yet in {settings['prefix']}: {', '.join(sorted(lacking))}")
    folder = pathlib.Path(settings["folder"])
    changed = {name for name in wanted if read(folder / name) != wanted[name]}
    gone = {name for name in KNOWN - wanted.keys() if (folder / name).exists()}
    due = folder / ".reload-due"  # there while Nebula has not read what is written: a failed reload is tried again
    if not changed and not gone and not due.exists():
        return
    # Not below `folder`: Nebula reads every *.yml there, in folders of folders too.
    staged = pathlib.Path(tempfile.mkdtemp(prefix="lighthouse-"))
    for name, text in wanted.items():
        write(staged / name, text.replace(f"{folder}/", f"{staged}/") if name == "config.yml" else text, None)
    tested = subprocess.run(
        [f"{settings['programs']}/nebula", "-test", "-config", str(staged)],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    shutil.rmtree(staged)
    if tested.returncode:
        sys.exit(
            f"Nebula refuses what is in {settings['prefix']}; it goes on with what it has.\n{tested.stderr[-2000:]}{tested.stdout[-2000:]}"
        )
    due.touch()
    # The bundle first: a certificate must not come before the authority that signed it.
    for name in sorted(changed, key=lambda one: (one != "ca.crt", one)):
        new = folder / f".{name}.new"
        write(new, wanted[name], settings["owner"])
        new.rename(folder / name)
    for name in gone:
        (folder / name).unlink()
    subprocess.run(settings["reload"], check=True, timeout=LIMIT * 3)
    due.unlink()


def read(path: pathlib.Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def write(path: pathlib.Path, text: str, owner: str | None) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    if owner:
        shutil.chown(path, owner)


def parameters(settings: dict[str, Any]) -> dict[str, str]:
    """The files, by name."""
    found: dict[str, str] = {}
    token = None
    while True:
        body = {"Path": settings["prefix"], "WithDecryption": True, "MaxResults": 10} | ({"NextToken": token} if token else {})
        answer = call(settings, json.dumps(body).encode())
        for one in answer["Parameters"]:
            name = one["Name"].rpartition("/")[2]
            if name in KNOWN:
                found[name] = one["Value"]
        token = answer.get("NextToken")
        if not token:
            return found


def call(settings: dict[str, Any], body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(settings["endpoint"], "POST", signed(settings, body), body))
    return found


def signed(settings: dict[str, Any], body: bytes) -> dict[str, str]:
    """Headers with AWS's signature, version 4, by the machine's own role."""
    role = credentials(settings)
    now = dt.datetime.now(dt.timezone.utc).strftime("%Y%m%dT%H%M%SZ")  # noqa: UP017 - Python 3.9 has no datetime.UTC
    scope = f"{now[:8]}/{settings['region']}/ssm/aws4_request"
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": urllib.parse.urlsplit(settings["endpoint"]).netloc,
        "x-amz-date": now,
        "x-amz-security-token": role["Token"],
        "x-amz-target": "AmazonSSM.GetParametersByPath",
    }
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{role['SecretAccessKey']}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    authorization = f"AWS4-HMAC-SHA256 Credential={role['AccessKeyId']}/{scope}, SignedHeaders={names}, Signature={signature}"
    return headers | {"authorization": authorization}


def credentials(settings: dict[str, Any]) -> dict[str, str]:
    """Of the instance's role, from the metadata service, version 2."""
    base = settings["metadata"]
    token = ask(f"{base}/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}).decode()
    key = {"X-aws-ec2-metadata-token": token}
    place = f"{base}/latest/meta-data/iam/security-credentials/"
    role = ask(place, "GET", key).decode().split()[0]
    found: dict[str, str] = json.loads(ask(place + role, "GET", key))
    return found


def ask(url: str, method: str, headers: dict[str, str], body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, data=body, method=method, headers=headers)  # noqa: S310 - from our own settings
    with urllib.request.urlopen(request, timeout=LIMIT) as answer:  # noqa: S310
        content: bytes = answer.read()
        return content


if __name__ == "__main__":
    main(sys.argv[1:])
