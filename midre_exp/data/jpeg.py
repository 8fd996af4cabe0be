"""What is wrong with a JPEG file that decodes all the same: libjpeg fills what is missing with grey and
complains to nobody.

Three marks of an incomplete download: no end of the image (the tail is missing, or zeros); zero bytes where
the file's own codes make no sense of them (a preallocated piece that never came); scans that end early or are
lacking. Files whose codes give zeros a meaning (optimised ones, in flat regions) may have a hole that only
looks like a flat region.
Layout: ITU-T T.81.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field

from PIL import Image

_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # in a scan; FF 00 and restarts belong to it
_HOLE = bytes(64)  # so many bits are several blocks whatever the codes
_GREY = {127, 128}  # what libjpeg makes of blocks that never came, CMYK perhaps inverted
_PROBE = b"\x5a" * 64
_START, _TABLES, _SCAN, _END = (0xC0, 0xC1, 0xC2), 0xC4, 0xDA, 0xD9
_PROGRESSIVE = 0xC2


@dataclass
class _Structure:
    """What the markers of a file tell."""

    has_end: bool = False
    has_hole: bool = False
    progressive: bool = False
    end: int = 0  # of the last scan's data
    #: Of every component the lowest bit that has come of each of its 64 coefficients, -1 for none.
    bits: dict[int, list[int]] = field(default_factory=dict)


def defect(data: bytes, decoded: Image.Image) -> str | None:
    """What is wrong with a JPEG file that Pillow has ``decoded``; None if nothing is."""
    found = _structure(data)
    if not found.end:
        return None  # no scan of a kind known here; decoding has the word
    if not found.has_end:
        return "its end is missing"
    if found.has_hole:
        return "it holds a run of zero bytes"
    if any(bits[0] < 0 or max(bits) > 0 for bits in found.bits.values()):
        return "its last scans are missing"
    if (found.progressive or _ends_grey(decoded)) and _is_starved(data, found.end):
        return "it ends early"
    return None


def _structure(data: bytes) -> _Structure:
    found, zero_symbols, at = _Structure(), dict[int, int](), 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 3:
        kind = data[at + 1]
        if kind == _END:
            found.has_end = True
            return found
        if kind in (0x00, 0xFF) or kind == 0x01 or 0xD0 <= kind <= 0xD8:  # no segment
            at += 1 if kind == 0xFF else 2
            continue
        stop = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at + 4 : stop]
        if kind in _START and segment:
            found.progressive = kind == _PROGRESSIVE
            count = segment[5] if len(segment) > 5 else 0
            found.bits = {number: [-1] * 64 for number in segment[6 : 6 + 3 * count : 3]}
        elif kind == _TABLES:
            _add_zero_symbols(segment, zero_symbols)
        elif kind == _SCAN:
            end = _MARKER.search(data, stop)
            found.end = len(data) if end is None else end.start()
            _add_scan(segment, found)
            if _is_hole(segment, zero_symbols) and data.find(_HOLE, stop, found.end) >= 0:
                found.has_hole = True
            stop = found.end
        at = stop
    found.has_end = data[at : at + 2] == b"\xff\xd9" if at >= 0 else False
    return found


def _add_zero_symbols(segment: bytes, symbols: dict[int, int]) -> None:
    """The symbol of the code of zeros alone, which is the first, of each Huffman table in a segment."""
    at = 0
    while at + 17 <= len(segment):
        count = sum(segment[at + 1 : at + 17])
        if count:
            symbols[segment[at]] = segment[at + 17] if at + 17 < len(segment) else 0
        at += 17 + count


def _is_hole(segment: bytes, symbols: dict[int, int]) -> bool:
    """Whether zeros make no sense in a scan: by one of its tables they would be the same coefficient, of a
    nonzero size, over and over.
    """
    count = segment[0] if segment else 0
    if len(segment) < 4 + 2 * count or segment[3 + 2 * count] >> 4:  # bits of a refinement are no symbols
        return False
    first, last = segment[1 + 2 * count], segment[2 + 2 * count]
    tables = segment[2 : 2 + 2 * count : 2]
    used = [table >> 4 for table in tables] if first == 0 else []
    used += [0x10 | (table & 15) for table in tables] if last > 0 else []
    return any(symbols.get(table, 0) & 15 for table in used)


def _add_scan(segment: bytes, found: _Structure) -> None:
    """Note which bits of which coefficients a scan brings."""
    count = segment[0] if segment else 0
    if len(segment) < 4 + 2 * count:
        return
    first, last, low = segment[1 + 2 * count], segment[2 + 2 * count], segment[3 + 2 * count] & 15
    for number in segment[1 : 1 + 2 * count : 2]:
        if number in found.bits and first <= last < 64:
            found.bits[number][first : last + 1] = [low] * (last + 1 - first)


def _ends_grey(decoded: Image.Image) -> bool:
    """Whether the last pixel is what libjpeg makes of a block that never came."""
    width, height = decoded.size
    return set(decoded.crop((width - 1, height - 1, width, height)).tobytes()) <= _GREY


def _is_starved(data: bytes, end: int) -> bool:
    """Whether more data at the end of the last scan would change the picture: a whole one has no use for
    them.
    """
    more = data[:end] + _PROBE + data[end:]
    pictures = [Image.open(io.BytesIO(some)).convert("RGB").tobytes() for some in (data, more)]
    return pictures[0] != pictures[1]
