"""Count the elements of a serialized protocol buffer before it is parsed.

protobuf's parser holds the interpreter lock until the whole message is parsed: 4 MB of empty
strings block all other threads for 0.1 s, and a map of 340,000 entries in the order of its hashes
for seconds, because the time grows with the square of its size (protobuf issue 13733).
"""

import functools
from collections import Counter
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from serving.server.status import invalid

# A packed list of numbers is one element. Texts of 16 bytes on average reach the size limit of
# requests (4 MiB) before this one.
MAX_ELEMENTS = 2**18
# Largest map, such as the inputs of a request or the features of an example.
MAX_ENTRIES = 2**14

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LEAST_BYTES = 2  # of an element: its tag, and its value or length
_ELEMENT_BYTES = 32  # an empty string or message
_NUMBER_BYTES = {  # a varint takes one byte or more
    FieldDescriptor.CPPTYPE_INT32: 4,
    FieldDescriptor.CPPTYPE_UINT32: 4,
    FieldDescriptor.CPPTYPE_ENUM: 4,
    FieldDescriptor.CPPTYPE_INT64: 8,
    FieldDescriptor.CPPTYPE_UINT64: 8,
}
_SIZES = {_FIXED64: 8, _FIXED32: 4}


@dataclass(frozen=True)
class _Fields:
    """The fields of a message type that can contain many elements.

    Attributes:
        nested: by field number, the message type of a field, and whether it is a map's entry.
        growth: by field number, the maximum bytes of memory per byte of packed integers.
    """

    nested: dict[int, tuple[Descriptor, bool]]
    growth: dict[int, int]


def check_elements(
    packed: bytes,
    message: Descriptor,
    max_elements: int = MAX_ELEMENTS,
    max_entries: int = MAX_ENTRIES,
) -> int:
    """Refuse a message with too many fields, list items or map entries, over all levels.

    Small messages pass uncounted. A malformed message passes as soon as the fault is reached: the
    parser refuses it.

    Args:
        packed: the serialized message.
        message: its type.
        max_elements: largest number of fields and unpacked list items.
        max_entries: largest number of entries of one map.

    Returns:
        An estimate of the parsed message's memory, in bytes.

    Raises:
        ServingError: INVALID_ARGUMENT: there are more.
    """
    memory_bytes = len(packed)
    if len(packed) <= _LEAST_BYTES * min(max_elements, max_entries):
        return memory_bytes
    elements = 0
    waiting = [(message, 0, len(packed))]  # type, start and end of messages to count
    while waiting:
        kind, position, end = waiting.pop()
        fields = _fields(kind)
        entries: Counter[int] = Counter()
        while position < end:
            elements += 1
            if elements > max_elements:
                raise invalid(f"The request message has more than {max_elements} elements")
            try:
                tag, position = _varint(packed, position)
                number, wire_type = tag >> 3, tag & 7
                if wire_type == _VARINT:
                    _, position = _varint(packed, position)
                elif wire_type != _LENGTH:
                    position += _SIZES.get(wire_type, 0)  # the tags of a group have no value
                if wire_type != _LENGTH:
                    continue
                size, position = _varint(packed, position)
            except IndexError:
                break
            if size and number in fields.growth:
                memory_bytes += size * (fields.growth[number] - 1)
            elif number in fields.nested:
                inner, is_entry = fields.nested[number]
                if size:
                    waiting.append((inner, position, min(position + size, end)))
                entries[number] += is_entry
                if entries[number] > max_entries:
                    raise invalid(f"{kind.name}: a map has more than {max_entries} entries")
            position += size
    return memory_bytes + elements * _ELEMENT_BYTES


@functools.cache
def _fields(message: Descriptor) -> _Fields:
    fields = _Fields({}, {})
    for number, field in message.fields_by_number.items():
        inner = field.message_type
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            fields.nested[number] = inner, inner.GetOptions().map_entry
        elif field.cpp_type in _NUMBER_BYTES:
            fields.growth[number] = _NUMBER_BYTES[field.cpp_type]
    return fields


def _varint(packed: bytes, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it."""
    byte = packed[position]
    if byte < 0x80:
        return byte, position + 1
    value, shift = byte & 0x7F, 7
    while shift < 70:
        position += 1
        byte = packed[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise IndexError
