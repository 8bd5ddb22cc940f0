"""The costliest file that each reader's caps admit.

Each scene repeats whatever costs most memory for each byte in the file, up to a cap or beyond it.
"""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import zipfile
import zlib

import numpy as np

from ravenxterm_lab.readers import limits

# One such character makes Python take four bytes for each one in the text, a thousand in a name.
WIDE = "\U0001f600"
SCENES = {}


def scene(file):
    """Keep the function that makes the content of a file of that name."""

    def keep(make):
        SCENES[make.__name__] = (file, make)
        return make

    return keep


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf(*, keys=(), tensors=()):
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    return head + b"".join(keys) + b"".join(tensors)


def wide(number, length):
    """Return a text of so many bytes, each different, which takes four times that in memory."""
    return f"{number:07d}{WIDE}".ljust(length - 3, "x")


@scene("a.gguf")
def gguf_long_keys():
    return gguf(keys=[text(wide(n, 65_000)) + struct.pack("<IB", 0, 1) for n in range(300)])


@scene("a.gguf")
def gguf_long_texts():
    value = text(wide(0, 4096))
    return gguf(keys=[text(f"k{n}") + struct.pack("<I", 8) + value for n in range(4096)])


@scene("a.gguf")
def gguf_long_arrays():
    value = struct.pack("<IIQ", 9, 10, 4096) + struct.pack("<Q", 2**63) * 4096
    return gguf(keys=[text(f"k{n}") + value for n in range(300)])


@scene("a.gguf")
def gguf_nested_arrays():
    inner = struct.pack("<IQ", 0, 0)
    many = limits.GGUF_NESTED_ARRAYS
    return gguf(keys=[text("k") + struct.pack("<IIQ", 9, 9, many) + inner * many])


@scene("a.gguf")
def gguf_tensors():
    shape = struct.pack("<IQQQQ", 4, 2**15, 2**15, 2**15, 1)
    return gguf(
        tensors=[
            text(f"{n:07d}".ljust(230, "x")) + shape + struct.pack("<IQ", 1000 + n, 2**40 + n)
            for n in range(limits.GGUF_TENSORS)
        ]
    )


@scene("a.gguf")
def gguf_wide_tensors():
    shape = struct.pack("<IQIQ", 1, 32, 0, 0)
    return gguf(tensors=[text(wide(n, 1000)) + shape for n in range(12_000)])


def json_object(rows):
    return f"{{{','.join(rows)}}}".encode()


def json_list(rows):
    return b'{"a":[' + ",".join(rows).encode() + b"]}"


def safetensors(header):
    return struct.pack("<Q", len(header)) + header


EMPTY = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'


@scene("a.safetensors")
def safetensors_tensors():
    many = limits.FILE_KEPT_BYTES // 380
    return safetensors(json_object(f'"{n}":{EMPTY}' for n in range(many)))


@scene("a.safetensors")
def safetensors_wide_tensors():
    rows = (f'"{wide(n, 10_000)}":{EMPTY}' for n in range(1500))
    return safetensors(json_object(rows))


@scene("a.safetensors")
def safetensors_types():
    rows = (
        f'"{n}":{{"dtype":"{wide(n, 8000)}","shape":[],"data_offsets":[0,0]}}' for n in range(3000)
    )
    return safetensors(json_object(rows))


@scene("a.safetensors")
def safetensors_metadata():
    long = wide(0, 20 << 20)
    rows = "".join(f'"{n}":"",' for n in range(300_000))
    return safetensors(f'{{"__metadata__":{{{rows}"a":"{long}"}}}}'.encode())


@scene("a.safetensors")
def safetensors_lists():
    return safetensors(b'{"a":[' + b"[]," * (10 << 20) + b"[]]}")


def field(number, value):
    """Return a field of a protocol buffer: bytes, or a number."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def onnx(graph):
    return field(1, 8) + field(7, graph)


@scene("a.onnx")
def onnx_tensors():
    return onnx(field(5, field(2, 1)) * (limits.FILE_KEPT_BYTES // 700))


@scene("a.onnx")
def onnx_names():
    return onnx(field(5, field(8, wide(0, 1024).encode())) * 12_000)


@scene("a.onnx")
def onnx_shapes():
    dims = field(1, varint(2**60) * limits.DIMENSIONS)
    return onnx(field(5, dims + field(8, b"w")) * 13_000)


@scene("a.onnx")
def onnx_lies():
    tensor = field(1, 8) + field(2, 1) + field(9, b"xx") + field(8, wide(0, 200).encode())
    return onnx(field(5, tensor) * 25_000)


@scene("a.onnx")
def onnx_external():
    def entry(key, value):
        return field(13, field(1, key) + field(2, value))

    rows = []
    for n in range(20_000):
        where = entry(b"location", b"a/" + wide(n, 300).encode())
        size = entry(b"offset", b"%d" % (10**30 + n)) + entry(b"length", b"9" * 40)
        rows.append(field(5, field(8, b"w") + where + size))
    return onnx(b"".join(rows))


@scene("a.onnx")
def onnx_extents():
    def entry(key, value):
        return field(13, field(1, key) + field(2, value))

    rows = []
    for n in range(35_000):
        size = entry(b"offset", b"%d" % (10**30 + n)) + entry(b"length", b"9" * 40)
        rows.append(field(5, entry(b"location", b"a") + size))
    return onnx(b"".join(rows))


@scene("a.onnx")
def onnx_inputs():
    symbol = field(1, field(2, wide(0, 84).encode()))
    shape = field(2, symbol * limits.DIMENSIONS)
    one = field(1, wide(0, 1000).encode()) + field(2, field(1, field(1, 1) + shape))
    return onnx(field(11, one) * 3000)


@scene("a.onnx")
def onnx_packed():
    bits = field(5, field(1, b"bits") + field(3, 4))
    nodes = (
        field(
            1, field(1, b"x") + field(1, wide(n, 1000).encode()) + field(4, b"MatMulNBits") + bits
        )
        for n in range(15_000)
    )
    return onnx(b"".join(nodes))


def flat_table(fields):
    """Return a table of 32-bit fields and the table of its fields; the latter comes first."""
    places = [4 + 4 * n if value is not None else 0 for n, value in enumerate(fields)]
    head = struct.pack(f"<HH{len(fields)}H", 4 + 2 * len(fields), 4 + 4 * len(fields), *places)
    body = struct.pack(f"<i{len(fields)}I", len(head), *(value or 0 for value in fields))
    return head, body


# The offset and the size of a buffer behind the FlatBuffer take 64 bits.
FLAT_BUFFER = struct.pack("<5H", 10, 20, 0, 4, 12), struct.pack("<iQQ", 10, 9, 9)


def flat(*, tensor, tensors=0, inputs=0, buffers=1):
    """Return a TFLite file whose vectors lead to one tensor, or to one buffer, again and again."""
    parts = bytearray(struct.pack("<I4s", 0, b"TFL3"))

    def add(table):
        """Write a table; return where it begins."""
        head, body = table
        parts.extend(head + body)
        return len(parts) - len(body)

    def lead(place, target=None):
        """Let the offset at a place lead to a target, or to what is written next."""
        struct.pack_into("<I", parts, place, (len(parts) if target is None else target) - place)

    model = add(flat_table([3, None, 0, None, 0]))
    lead(0, model)
    lead(model + 4 + 4 * 2)
    parts.extend(struct.pack("<II", 1, 0))
    place = len(parts) - 4
    graph = add(flat_table([0, 0, 0]))
    lead(place, graph)
    for side in (1, 2):
        lead(graph + 4 + 4 * side)
        parts.extend(struct.pack("<I", inputs) + bytes(4 * inputs))
    for place, count, table in (
        (graph + 4, tensors, tensor),
        (model + 4 + 4 * 4, buffers, FLAT_BUFFER),
    ):
        lead(place)
        begin = len(parts) + 4
        parts.extend(struct.pack("<I", count) + bytes(4 * count))
        steps = add(table) - (begin + 4 * np.arange(count, dtype=np.int64))
        parts[begin : begin + 4 * count] = steps.astype("<u4").tobytes()
    return bytes(parts)


def flat_tensor(name, dims):
    """Return a tensor's table with a name and a shape behind it."""
    head = struct.pack("<6H", 12, 16, 4, 0, 0, 12)
    raw = name.encode()
    body = struct.pack("<iIII", 12, 12, 0, 8 + 4 * len(dims))
    shape = struct.pack(f"<I{len(dims)}i", len(dims), *dims)
    return head, body + shape + struct.pack("<I", len(raw)) + raw + b"\0"


@scene("a.tflite")
def tflite_names():
    return flat(tensor=flat_tensor(wide(0, 1000), [1]), tensors=limits.FLAT_TABLES // 2)


@scene("a.tflite")
def tflite_shapes():
    return flat(tensor=flat_tensor("w", [2**30] * 64), tensors=limits.FLAT_TABLES // 2)


@scene("a.tflite")
def tflite_tensors():
    return flat(tensor=flat_tensor("w", []), tensors=90_000)


@scene("a.tflite")
def tflite_inputs():
    return flat(tensor=flat_tensor(wide(0, 240), [2**30] * 64), tensors=1, inputs=33_000)


@scene("a.tflite")
def tflite_buffers():
    return flat(tensor=flat_tensor("w", []), tensors=1, buffers=110_000)


def fasttext_head(words, labels, kept=-1):
    head = struct.pack("<2i12id", 793712314, 12, 1, *[1] * 5, 3, 3, 0, 0, 0, 100, 0.0)
    return head + struct.pack("<3i2q", words + labels, words, labels, 1, kept)


@scene("a.ftz")
def fasttext_labels():
    entry = b"\0" + struct.pack("<qB", 1, 1)
    return fasttext_head(0, 600_000) + b"".join(
        wide(n, 60).encode() + entry for n in range(600_000)
    )


@scene("a.ftz")
def fasttext_long_words():
    entry = wide(0, 60_000).encode() + b"\0" + bytes(9)
    return fasttext_head(1000, 0) + entry * 1000


@scene("a.ftz")
def fasttext_hashes():
    label = b"x\0" + struct.pack("<qB", 1, 1)
    pairs = struct.pack("<2i", 1, 4_999_999) * 5_000_000
    return fasttext_head(0, 1, 5_000_000) + label + pairs


def openvino(body):
    return f'<net name="n" version="11"><layers>{body}</layers></net>'.encode()


@scene("a.xml")
def openvino_parameters():
    shape = ",".join(["9999999999"] * 64)
    data = f'<data element_type="f32" shape="{shape}"/>'
    name = wide(0, 200)
    return openvino(f'<layer id="{name}" name="{name}" type="Parameter">{data}</layer>' * 12_000)


@scene("a.xml")
def openvino_constants():
    row = '<layer name="c" type="Const"><data element_type="i8" shape="8" offset="{}" size="8"/>'
    return openvino("".join(f"{row.format(10**18 + n)}</layer>" for n in range(95_000)))


@scene("a.xml")
def openvino_ports():
    port = '<port id="{}" names="{}"/>'
    ports = "".join(port.format(n, wide(n, 200)) for n in range(60_000))
    return openvino(f'<layer id="1" name="c" type="Split"><output>{ports}</output></layer>')


@scene("a.xml")
def openvino_edges():
    end = wide(0, 80)
    edges = (f'<edge from-layer="{end}" from-port="{end}" to-layer="{n}"/>' for n in range(70_000))
    return f'<net name="n" version="11"><edges>{"".join(edges)}</edges></net>'.encode()


@scene("a.xml")
def openvino_names():
    names = (f"<a{n:05d}{'é' * 900}/>" for n in range(limits.XML_NAMES))
    return openvino("".join(names))


@scene("a.xml")
def openvino_attributes():
    return openvino("".join(f"<a b{n:05d}='{wide(n, 200)}'/>" for n in range(limits.XML_NAMES)))


@scene("a.xml")
def openvino_one_tag():
    return openvino(f'<layer name="{wide(0, 1_000_000)}"/>' * 20)


def pickled(body):
    return b"\x80\x04" + body + b"."


def unicode(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def pickle_texts():
    return b"".join(unicode(wide(n, 1000)) for n in range(30_000))


def pickle_memo():
    return b"".join(b"]r" + struct.pack("<I", n) for n in range(limits.PICKLE_STACK // 2))


def pickle_tuples():
    return b"N\x85" * (limits.PICKLE_OPCODES // 2 - 2)


def pickle_dicts():
    pairs = b"".join(unicode(chr(ord("a") + n)) + b"N" for n in range(16))
    return (b"}(" + pairs + b"u") * (limits.PICKLE_OPCODES // 36)


def pickle_objects():
    return (
        b"cnumpy\ndtype\n"
        + unicode("x" * 16)
        + b"\x85\x94\x30"
        + b"".join(b"cnumpy\ndtype\nh\0R" for _ in range(120_000))
    )


def pickle_globals():
    return b"".join(f"c{n:07d}{'x' * 180}\ny\n".encode() for n in range(60_000))


def pickle_storages():
    head = (
        b"ctorch\nFloatStorage\n\x940" + unicode("storage") + b"\x940" + unicode("cpu") + b"\x940"
    )
    one = b"(h\1h\0" + b"\x8c\x0a%010d" + b"h\2J\xff\xff\xff\x0ftQ0"
    return head + b"".join(one % n for n in range(45_000))


def pickle_numbers():
    return (b"\x8a\xff" + b"\x7f" * 255) * 200_000


PICKLES = [
    pickle_texts, pickle_memo, pickle_tuples, pickle_dicts, pickle_objects, pickle_globals,
    pickle_storages, pickle_numbers,
]  # fmt: skip
for make_pickle in PICKLES:
    scene("a.pkl")(lambda make=make_pickle: pickled(make()))
    SCENES[make_pickle.__name__] = SCENES.pop("<lambda>")


@scene("a.joblib")
def pickle_in_lzma():
    best = lzma.compress(b"", preset=9 | lzma.PRESET_EXTREME)
    assert best
    return lzma.compress(pickled(pickle_texts()), preset=9)


@scene("b.joblib")
def pickle_in_lzma_alone():
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 9}]
    return lzma.compress(pickled(pickle_memo()), lzma.FORMAT_ALONE, filters=filters)


@scene("c.joblib")
def pickle_in_bz2():
    return bz2.compress(pickled(pickle_texts()))


@scene("d.joblib")
def pickle_in_zlib():
    return zlib.compress(pickled(pickle_texts()), 9)


def zipped(members, body=b"\x80\x02N."):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", body)
        for name in members:
            archive.writestr(zipfile.ZipInfo(name), b"")
    return out.getvalue()


@scene("a.pt")
def zip_members():
    return zipped(
        (f"a/data/{n}" for n in range(limits.ARCHIVE_MEMBERS - 1)), pickled(pickle_texts())
    )


@scene("a.pt")
def zip_long_names():
    return zipped(wide(n, 10_000) for n in range(limits.ARCHIVE_DIRECTORY_BYTES // 10_100))


@scene("a.pt")
def zip_comments():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
        for n in range(60):
            info = zipfile.ZipInfo(f"a/{n}")
            info.comment, info.extra = b"x" * 32_000, b"\xfe\xca\xf8\x7c" + b"y" * 31_992
            archive.writestr(info, b"")
    return out.getvalue()
