"""READ: what a model file says of itself, from its header alone, bounded and never executed."""

from __future__ import annotations

from ravenxterm_lab.readers.base import FACTS_VERSION, FileFacts, Reader, TensorSignature
from ravenxterm_lab.readers.dispatch import READERS, facts_in, read_facts, reader_for
from ravenxterm_lab.readers.fingerprint import Fingerprint, fingerprint
from ravenxterm_lab.readers.header import header_digest
from ravenxterm_lab.readers.model_config import ModelConfig, read_config, with_config

__all__ = [
    "FACTS_VERSION",
    "READERS",
    "FileFacts",
    "Fingerprint",
    "ModelConfig",
    "Reader",
    "TensorSignature",
    "facts_in",
    "fingerprint",
    "header_digest",
    "read_config",
    "read_facts",
    "reader_for",
    "with_config",
]
