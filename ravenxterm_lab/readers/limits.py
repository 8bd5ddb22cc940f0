"""Every cap that a reader puts on what a file claims, in one place.

A cap is far above what real models need and far below what would hurt. A count is checked
against its cap *and* against the bytes that are left in the file before anything is allocated.
"""

from __future__ import annotations

__all__ = [
    "ARCHIVE_DIRECTORY_BYTES",
    "ARCHIVE_MEMBERS",
    "ARCHIVE_RATIO",
    "CARD_BYTES",
    "CONFIG_BYTES",
    "DIMENSIONS",
    "ELEMENTS",
    "FASTTEXT_DIMENSION",
    "FASTTEXT_ENTRIES",
    "FILE_KEPT_BYTES",
    "FILE_READ_BYTES",
    "FILE_SECONDS",
    "FLAT_TABLES",
    "FLAT_VTABLES",
    "FLAT_VTABLE_BYTES",
    "GGUF_ARRAY_DEPTH",
    "GGUF_ARRAY_ITEMS",
    "GGUF_HEADER_BYTES",
    "GGUF_KEEP_ITEMS",
    "GGUF_KEEP_STRING",
    "GGUF_KEYS",
    "GGUF_KEY_BYTES",
    "GGUF_NESTED_ARRAYS",
    "GGUF_TENSORS",
    "GGUF_TENSOR_NAME_BYTES",
    "INDEX_BYTES",
    "INFLATE_STREAMS",
    "JSON_DEPTH",
    "JSON_PIECE",
    "JSON_VALUES",
    "JSON_WHOLE",
    "LAYERS",
    "LZ4_BYTES",
    "LZMA_MEMORY",
    "ONNX_DEPTH",
    "ONNX_FIELDS",
    "ONNX_NUMBERS",
    "ONNX_STRING",
    "PICKLE_BYTES",
    "PICKLE_KEPT_BYTES",
    "PICKLE_MEMBERS",
    "PICKLE_OPCODES",
    "PICKLE_STACK",
    "PICKLE_STRING",
    "SAFETENSORS_HEADER_BYTES",
    "SHARDS",
    "SIGNATURES",
    "TEXT",
    "UNKNOWN_TYPES",
    "XML_BYTES",
    "XML_DEPTH",
    "XML_ELEMENTS",
    "XML_NAMES",
    "XML_TOKEN_BYTES",
]

_MIB = 1024 * 1024

#: Bytes that are read of one file, those that are read twice counted twice.
FILE_READ_BYTES = 1024 * _MIB
#: Seconds from when a file is opened until it is given up: a disk may hang.
FILE_SECONDS = 60.0
#: Bytes of memory that what is kept of one file may take, as the readers count it, over-counted
#: rather than under. The 60,000 tensors of the largest mixtures of experts take 32 MiB.
FILE_KEPT_BYTES = 48 * _MIB

#: Bytes of a GGUF header (everything before the tensor data). The largest known are near 30 MiB.
GGUF_HEADER_BYTES = 256 * _MIB
#: Key-value pairs; real files have fewer than 100.
GGUF_KEYS = 4096
#: Bytes of one key, from the specification of GGUF.
GGUF_KEY_BYTES = 65_535
#: Tensors; the largest mixtures of experts have about 60,000 before stacking.
GGUF_TENSORS = 65_536
#: Bytes of one tensor's name; ggml itself allows 64.
GGUF_TENSOR_NAME_BYTES = 1024
#: Items of all arrays together; a large tokenizer has two million.
GGUF_ARRAY_ITEMS = 16_000_000
#: Arrays within arrays: how deep, and how many. No key that is known has one.
GGUF_ARRAY_DEPTH = 3
GGUF_NESTED_ARRAYS = 65_536
#: An array of numbers up to this length is kept (one number for each layer), a longer one counted.
GGUF_KEEP_ITEMS = 4096
#: A string up to this many bytes is kept, a longer one (a chat template) skipped.
GGUF_KEEP_STRING = 4096

#: Bytes of a safetensors header. The format's own library takes 100 MB; 60,000 tensors, more than
#: any file has, take 8 MiB.
SAFETENSORS_HEADER_BYTES = 32 * _MIB
#: Types that a safetensors header may name beyond those that are known.
UNKNOWN_TYPES = 8
#: Bytes of a safetensors header that is parsed whole, which is twice as fast: 2,000 tensors. A
#: longer one is read member by member.
JSON_WHOLE = 256 * 1024
#: Characters of one value, or one key, in a JSON document that is read member by member, and how
#: deep what is skipped there may be nested.
JSON_PIECE = 16_384
JSON_DEPTH = 256
#: Values in one JSON document that is parsed whole: bounds the memory that it takes. The labels
#: of the 21,841 classes of ImageNet, stated both ways round, are 43,682.
JSON_VALUES = 131_072
#: Bytes of a ``config.json`` and its like.
CONFIG_BYTES = 4 * _MIB
#: Bytes of a shard index, and the files that it may name: the largest models have a few hundred.
INDEX_BYTES = 32 * _MIB
SHARDS = 10_000
#: Bytes of a model card that are looked at for its front matter.
CARD_BYTES = 64 * 1024

#: Protobuf messages within messages (nested graphs included).
ONNX_DEPTH = 48
#: Protobuf fields of one ONNX file; bounds the time.
ONNX_FIELDS = 3_000_000
#: Numbers in packed lists of one ONNX file (the shapes of its tensors); bounds the time.
ONNX_NUMBERS = 2_000_000
#: Bytes of one name, operator or domain in an ONNX file.
ONNX_STRING = 1024

#: Tables of one FlatBuffer that are visited; bounds the time.
FLAT_TABLES = 262_144
#: Field tables that are kept (a writer shares them: real files have a few dozen), and the bytes
#: of one (the largest table of the schema has 16 fields).
FLAT_VTABLES = 4096
FLAT_VTABLE_BYTES = 1024

#: Bytes of an XML file; the graph of a large diffusion model takes 12 MiB.
XML_BYTES = 64 * _MIB
#: Elements within elements (nested graphs included), and elements of one file.
XML_DEPTH = 256
XML_ELEMENTS = 2_000_000
#: Different names of elements and attributes: the parser keeps each for good.
XML_NAMES = 16_384
#: Bytes of one tag with its attributes.
XML_TOKEN_BYTES = _MIB

#: Elements of one vector of a fastText model (published ones have 16 to 300), and the words,
#: labels and kept hashes of its dictionary: the library itself takes 30 million.
FASTTEXT_DIMENSION = 65_536
FASTTEXT_ENTRIES = 30_000_000

#: Members of a zip archive, and the bytes of its central directory.
ARCHIVE_MEMBERS = 32_768
ARCHIVE_DIRECTORY_BYTES = 4 * _MIB
#: Uncompressed bytes per compressed byte above which a member is a zip bomb.
ARCHIVE_RATIO = 200
#: Pickles inside one archive that are disassembled.
PICKLE_MEMBERS = 64
#: Uncompressed bytes of all pickles inside an archive, or of one compressed file.
PICKLE_BYTES = 64 * _MIB
#: Compressed streams that follow one another in one file.
INFLATE_STREAMS = 64
#: Bytes unpacked from LZ4, which is done in Python.
LZ4_BYTES = 8 * _MIB
#: Bytes that an LZMA decoder may take: the largest preset needs 65 MiB.
LZMA_MEMORY = 66 * _MIB
#: Opcodes disassembled in one file, and values on the emulated stack and in the memo.
PICKLE_OPCODES = 500_000
PICKLE_STACK = 250_000
#: A string up to this many bytes is kept as a possible name of a global, and the bytes of memory
#: that all values of one file may take, as they are counted; beside them a decoder has its own.
PICKLE_STRING = 1024
PICKLE_KEPT_BYTES = 24 * _MIB

#: Dimensions of one tensor, and elements of all tensors together.
DIMENSIONS = 64
ELEMENTS = 2**62
#: Layers of one network.
LAYERS = 8192
#: Characters of a text fact (a license, a name) that are kept.
TEXT = 200
#: Inputs, and outputs, of a graph that are kept: facts stay in memory as long as a registry does.
SIGNATURES = 1024
