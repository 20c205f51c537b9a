"""The two encodings of Nebula's certificates, as far as they need them: protobuf (version 1) and DER (version 2).

Sources: slackhq/nebula, `cert/cert_v1.proto` and `cert/cert_v2.asn1`. Not responsible for what the fields mean.
"""

from collections.abc import Iterator

from lamplighter.mesh.errors import BadCertificate

_INT64 = (1 << 64) - 1

# Protobuf wire types.
VARINT, BYTES = 0, 2


def varint(number: int) -> bytes:
    """A protobuf varint; negative numbers as 64-bit two's complement."""
    number &= _INT64
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, text or packed numbers."""
    return varint(number << 3 | BYTES) + varint(len(content)) + content


def number_field(number: int, value: int) -> bytes:
    """A field with a number; proto3 writes no zeros."""
    return b"" if value == 0 else varint(number << 3 | VARINT) + varint(value)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends. Raises BadCertificate."""
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise BadCertificate("the certificate is cut off")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & _INT64, at
        shift += 7
    raise BadCertificate("the certificate is damaged: a number has no end")


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Every field as its number and its value: a number, or bytes. Raises BadCertificate."""
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        if tag & 7 == VARINT:
            value, at = read_varint(data, at)
            yield tag >> 3, value
        elif tag & 7 == BYTES:
            length, at = read_varint(data, at)
            if length > len(data) - at:
                raise BadCertificate("the certificate is cut off")
            yield tag >> 3, data[at : at + length]
            at += length
        else:
            raise BadCertificate("the certificate is damaged: a field has an unknown type")


def signed(number: int) -> int:
    """A 64-bit number read as signed."""
    return number - (1 << 64) if number >> 63 else number


def tlv(tag: int, content: bytes) -> bytes:
    """One DER element."""
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


def integer(tag: int, number: int) -> bytes:
    """A DER integer under `tag`: two's complement, as short as possible."""
    return tlv(tag, number.to_bytes((number if number >= 0 else ~number).bit_length() // 8 + 1, "big", signed=True))


class Reader:
    """Walks through the elements of DER, strictly: lengths as short as possible, nothing cut off."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def empty(self) -> bool:
        """Whether all was read."""
        return self._at >= len(self._data)

    def peek(self) -> int | None:
        """The next element's tag."""
        return None if self.empty else self._data[self._at]

    def read(self, tag: int) -> bytes:
        """The content of the next element, which must have this tag. Raises BadCertificate."""
        return self.element(tag)[1]

    def optional(self, tag: int) -> bytes | None:
        """The content of the next element when it has this tag."""
        return self.read(tag) if self.peek() == tag else None

    def element(self, tag: int) -> tuple[bytes, bytes]:
        """The next element whole, and its content. Raises BadCertificate."""
        if self.peek() != tag:
            raise BadCertificate("the certificate is damaged: a part is missing or out of order")
        start, at = self._at, self._at + 2
        if at > len(self._data):
            raise BadCertificate("the certificate is cut off")
        length = self._data[start + 1]
        if length >= 0x80:
            size = self._data[at : at + (length & 0x7F)]
            at += length & 0x7F
            length = int.from_bytes(size, "big")
            if not 1 <= len(size) <= 4 or at > len(self._data) or size[0] == 0 or length < 0x80:
                raise BadCertificate("the certificate is damaged: a length is wrong")
        if length > len(self._data) - at:
            raise BadCertificate("the certificate is cut off")
        self._at = at + length
        return self._data[start : self._at], self._data[at : self._at]

    def integer(self, tag: int) -> int:
        """A signed 64-bit number under this tag. Raises BadCertificate."""
        content = self.read(tag)
        longer = len(content) > 1 and content[0] in (0x00, 0xFF) and (content[0] ^ content[1]) < 0x80
        if not 1 <= len(content) <= 8 or longer:
            raise BadCertificate("the certificate is damaged: a number is wrong")
        return int.from_bytes(content, "big", signed=True)
