"""Keys: Nebula's own encrypted format, wrong passphrases, damage, and what an unlock costs."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamplighter.mesh import keys, pem
from lamplighter.mesh.certificates import public_bytes
from lamplighter.mesh.errors import BadCertificate, WrongPassphrase
from lamplighter.mesh.wire import field, number_field

# Published vector, worthless as a secret: slackhq/nebula v1.11.1, cert/crypto_test.go; made by Nebula itself.
_NEBULAS_KEY = """-----BEGIN NEBULA ED25519 ENCRYPTED PRIVATE KEY-----
CjsKC0FFUy0yNTYtR0NNEiwIExCAgAQYAyAEKiCPoDfGQiosxNPTbPn5EsMlc2MI
c0Bt4oz6gTrFQhX3aBJcimhHKeAuhyTGvllD0Z19fe+DFPcLH3h5VrdjVfIAajg0
KrbV3n9UHif/Au5skWmquNJzoW1E4MTdRbvpti6o+WdQ49DxjBFhx0YH8LBqrbPU
0BGkUHmIO7daP24=
-----END NEBULA ED25519 ENCRYPTED PRIVATE KEY-----
"""


def test_a_key_that_nebula_encrypted_opens() -> None:
    """Else the file of `nebula-cert ca -encrypt` cannot be imported, nor ours be used there: it is one format."""
    key = keys.decrypt(_NEBULAS_KEY, "DO NOT USE")
    assert public_bytes(key).hex().startswith("1929e8e78106b7bf")
    with pytest.raises(WrongPassphrase, match="does not open"):
        keys.decrypt(_NEBULAS_KEY, "do not use")


def test_what_is_encrypted_here_has_nebulas_shape() -> None:
    """The same fields in the same order as in Nebula's file, which is as long."""
    key = keys.new_authority_key()
    text = keys.encrypt(key, "long enough", keys.Argon2(memory=65_536, iterations=3, lanes=4))
    (label, ours), (_, theirs) = next(pem.blocks(text)), next(pem.blocks(_NEBULAS_KEY))
    assert label == pem.AUTHORITY_KEY_ENCRYPTED
    assert len(ours) == len(theirs)
    salt = theirs.index(b"\x2a\x20") + 2
    assert ours[:salt] == theirs[:salt]  # everything up to the salt: algorithm and cost
    assert public_bytes(keys.decrypt(text, "long enough")) == public_bytes(key)


def test_the_cost_of_an_unlock_is_safe_for_a_small_machine() -> None:
    """nebula-cert's default takes 2 GiB, which ends a machine with 1 GiB; ours takes 64 MiB beside the program's own."""
    program = (
        "from pathlib import Path\n"
        "from lamplighter.mesh import keys\n"
        "def peak():  # KiB, of this process alone: what getrusage says includes the parent's\n"
        "    return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "text = keys.encrypt(keys.new_authority_key(), 'long enough')\n"
        "keys.decrypt(text, 'long enough')\n"
        "print(peak() - before)\n"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux says how much memory a process took at most")
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert 50_000 < int(said.stdout) < 100_000


def test_an_attackers_parameters_are_refused() -> None:
    """A file that asks for a terabyte of memory must not be obeyed."""
    for memory, iterations, lanes in ((2**30, 1, 1), (32, 2**31, 1), (0, 1, 1), (32, 1, 0), (8, 1, 200)):
        parameters = (
            number_field(1, keys.ARGON2_VERSION)
            + number_field(2, memory)
            + number_field(3, iterations)
            + number_field(4, lanes)
            + field(5, b"s" * 32)
        )
        content = field(1, field(1, b"AES-256-GCM") + field(2, parameters)) + field(2, b"c" * 92)
        with pytest.raises(BadCertificate):
            keys.decrypt(pem.encode(pem.AUTHORITY_KEY_ENCRYPTED, content), "x")


@settings(max_examples=60, deadline=None)
@given(
    passphrase=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30),
    other=st.text(st.characters(codec="utf-8"), max_size=30),
)
def test_only_the_same_passphrase_opens(passphrase: str, other: str) -> None:
    """Whatever its letters are."""
    key = keys.new_authority_key()
    text = keys.encrypt(key, passphrase, keys.Argon2(memory=32, iterations=1, lanes=1))
    assert public_bytes(keys.parse_authority_key(text, passphrase)) == public_bytes(key)
    if other != passphrase:
        with pytest.raises(WrongPassphrase):
            keys.decrypt(text, other)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 200), junk=st.binary(min_size=1, max_size=6))
def test_a_damaged_key_is_an_error_and_never_another_key(at: int, junk: bytes) -> None:
    """A flipped bit on disk must not end in a signature that nobody trusts."""
    key = keys.new_authority_key()
    cost = keys.Argon2(memory=32, iterations=1, lanes=1)
    _, content = next(pem.blocks(keys.encrypt(key, "long enough", cost)))
    broken = content[:at] + junk + content[at + len(junk) :]
    try:
        opened = keys.decrypt(pem.encode(pem.AUTHORITY_KEY_ENCRYPTED, broken), "long enough")
    except (BadCertificate, WrongPassphrase):
        return
    assert public_bytes(opened) == public_bytes(key)


def test_what_is_no_key_is_named() -> None:
    """The error says what was expected and what is there: people mix up key and certificate."""
    private, public = keys.new_node_key()
    with pytest.raises(BadCertificate, match="holds NEBULA X25519 PRIVATE KEY"):
        keys.parse_public(private)
    with pytest.raises(BadCertificate, match="no PEM block"):
        keys.parse_public("hello")
    with pytest.raises(BadCertificate, match="not base64"):
        keys.parse_public("-----BEGIN NEBULA X25519 PUBLIC KEY-----\n!!!!\n-----END NEBULA X25519 PUBLIC KEY-----\n")
    with pytest.raises(BadCertificate, match="32 bytes"):
        keys.parse_public(pem.encode(pem.NODE_PUBLIC, b"short"))
    assert keys.public_of(private) == keys.parse_public(public)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=300), before=st.text(alphabet="ab\r\n #", max_size=20), windows=st.booleans())
def test_a_block_survives_comments_and_line_ends(content: bytes, before: str, windows: bool) -> None:
    """Files are edited on every system, and people write notes above keys."""
    text = before + pem.encode(pem.NODE_PUBLIC, content) + pem.encode(pem.NODE_KEY, content)
    text = text.replace("\n", "\r\n") if windows else text
    assert list(pem.blocks(text)) == [(pem.NODE_PUBLIC, content), (pem.NODE_KEY, content)]


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="-BEGIN ENDA\n=", max_size=80) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """It comes from files and from machines that we do not know."""
    try:
        assert isinstance(list(pem.blocks(text)), list)
    except BadCertificate as error:
        assert error.message  # noqa: PT017 - either outcome is right


def test_a_hostile_text_costs_no_time() -> None:
    """A node's public key is read before anything is known of it: a long text must not keep the keeper busy."""
    hostile = ["-----BEGIN A-----\n" * 50_000, "-----BEGIN " * 80_000, "-----BEGIN A-----" + "A" * 900_000, "x" * 2_000_000]
    begun = time.process_time()
    for text in hostile:
        with pytest.raises(BadCertificate):
            keys.parse_public(text)
    assert time.process_time() - begun < 1
