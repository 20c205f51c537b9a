"""Makes an installed environment smaller: `python slim.py FOLDER`, where FOLDER is its `site-packages`.

What goes is not used at run time: debugging symbols of compiled modules, descriptions of AWS services that nothing here calls, tests that
packages ship, and the sources of other people's packages once they are compiled. Those still run and still name file and line in a traceback;
our own sources stay, and so do pip's, which is asked where the bundled model comes from and installs nothing. At last every compiled module
is imported, because stripping can break one. Needs `strip` (binutils). For the images' build stages only; standard library only.
"""

import compileall
import importlib
import py_compile
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

AWS_SERVICES = frozenset({
    "autoscaling", "budgets", "ce", "cloudformation", "cloudwatch", "ec2", "ecr", "events", "iam", "kms", "lambda", "logs", "pricing",
    "resourcegroupstaggingapi", "s3", "secretsmanager", "service-quotas", "signin", "sns", "sqs", "ssm", "sso", "sso-oidc", "sts",
})  # fmt: skip
"""Kept: what Lamplighter calls, and what AWS's library itself calls for credentials (sts, sso, sso-oidc, signin)."""
UNUSED = ("greenlet/tests", "psutil/tests", "sqlalchemy/testing", "alembic/testing", "hf_xet", "hf_xet-*.dist-info")
"""Tests, and the hub's other way of downloading, which is optional there: `engines.sources` has its own."""
SOURCES = ("*.pyx", "*.pxd", "*.pyi", "*.c", "*.h")
"""What compiled modules were made from."""
WITH_SOURCES = re.compile(r"/(lamplighter|pip)/")
"""Alembic reads our migrations as text, and a traceback of ours shall show the line."""
NEVER_COMPILED = re.compile(r"/(pip|pygments/lexers)/")
"""Too rarely run to be worth the room."""


def main() -> int:
    """Slim the folder and tell what that saved. Exit 1 when a compiled module cannot be imported afterwards."""
    site = Path(sys.argv[1])
    sizes = [size(site)]
    for step in (drop_unused, drop_services, strip, compile_all):
        step(site)
        sizes.append(size(site))
    sys.stdout.write(f"slim: {' -> '.join(f'{each / 1e6:.0f}' for each in sizes)} MB\n")
    broken = list(unimportable(site))
    for name, why in broken:
        sys.stderr.write(f"slim: {name} cannot be imported: {why}\n")
    return 1 if broken else 0


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def drop_unused(site: Path) -> None:
    """Remove what is never imported."""
    for pattern in UNUSED:
        for folder in site.glob(pattern):
            shutil.rmtree(folder)
    for pattern in SOURCES:
        for source in site.rglob(pattern):
            source.unlink()


def drop_services(site: Path) -> None:
    """Remove the descriptions of AWS services that are not called."""
    data = site / "botocore" / "data"
    for folder in data.iterdir() if data.is_dir() else ():
        if folder.is_dir() and folder.name not in AWS_SERVICES:
            shutil.rmtree(folder)


def strip(site: Path) -> None:
    """Take the debugging symbols out of compiled modules."""
    for module in modules(site):
        subprocess.run(("strip", "--strip-unneeded", module), check=True)


def compile_all(site: Path) -> None:
    """Ours beside the sources, never checked against them again; the others' in place of the sources."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(site / "lamplighter", quiet=2, invalidation_mode=mode)
    compileall.compile_dir(site, quiet=2, legacy=True, rx=re.compile(f"{WITH_SOURCES.pattern}|{NEVER_COMPILED.pattern}"))
    for compiled in site.rglob("*.pyc"):
        source = compiled.with_suffix(".py")
        if compiled.parent.name != "__pycache__" and source.exists():
            source.unlink()


def modules(site: Path) -> Iterator[Path]:
    """Compiled modules. Not the libraries that wheels carry in `*.libs`: those were patched, and stripping may break such a file."""
    for path in sorted(site.rglob("*.so")):
        if not path.parent.name.endswith(".libs"):
            yield path


def unimportable(site: Path) -> Iterator[tuple[str, str]]:
    """Compiled modules that do not load any more, with the reason."""
    for path in modules(site):
        name = ".".join((*path.relative_to(site).parent.parts, path.name.split(".", 1)[0]))
        try:
            importlib.import_module(name)
        except ImportError as error:
            yield name, str(error)


if __name__ == "__main__":
    sys.exit(main())
