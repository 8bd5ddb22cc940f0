"""Triples of sentences: the one that means the same must be the nearer one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.quality.base import Item, QualityCheck, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EMBEDDING"]

# (name, sentence, what means nearly the same, what does not). In the "lure" items the wrong
# one shares more words with the sentence, so that counting words does not help.
_TRIPLES = (
    ("cat", "The cat sleeps on the sofa.", "A kitten is napping on the couch.",
     "The central bank raised its rates."),
    ("car", "My car broke down on the motorway.", "The vehicle stopped working on the highway.",
     "We planted tomatoes in the garden."),
    ("rain", "It has been raining all day.", "The weather was wet from morning to night.",
     "She plays the violin very well."),
    ("doctor", "You should see a physician.", "Go and consult a doctor.",
     "The bridge is closed for repairs."),
    ("film", "The movie was boring.", "I found the film dull.", "The soup needs more salt."),
    ("price", "How much does it cost?", "What is the price?", "Where is the station?"),
    ("password", "I forgot my password.", "I cannot log in because I lost my login code.",
     "The recipe calls for two eggs."),
    ("refund", "I want my money back.", "Please refund my payment.", "The museum opens at nine."),
    ("python", "How do I sort a list in Python?", "Ordering the elements of a Python array.",
     "The zoo bought a new snake."),
    ("election", "The president won the election.", "The head of state was voted in again.",
     "The cake is in the oven."),
    ("lure-bank", "He sat on the bank of the river.", "He rested at the water's edge.",
     "He works at the bank in the city."),
    ("lure-bat", "The bat flew out of the cave.", "A small winged animal left its den at dusk.",
     "The bat and the ball are in the bag."),
    ("lure-spring", "Spring is my favourite season.", "I like the months when flowers bloom.",
     "The spring in my favourite watch is broken."),
    ("lure-not-late", "The train arrived on time.", "The train was punctual.",
     "The train arrived three hours late."),
    ("lure-open", "The shop is open on Sunday.", "You can buy things there at the weekend.",
     "The shop is closed on Sunday."),
    ("lure-apple", "Apple announced a new phone.", "The maker of the iPhone showed its next model.",
     "An apple a day is good for you."),
    ("lure-match", "We lost the match in the last minute.", "Our team was beaten at the very end.",
     "We lost the last match to light the candle."),
    ("lure-light", "This suitcase is light.", "The luggage does not weigh much.",
     "This light is in the suitcase."),
    ("lure-dog", "The dog bit the man.", "A man was bitten by a dog.", "The man fed the dog."),
    ("lure-key", "What is the key idea of the book?", "Summarise the main point of the text.",
     "Where is the key to the book case?"),
)  # fmt: skip


def _nearer(triple: tuple[str, str, str], run: Callable[[Any], Any]) -> Verdict:
    import numpy as np

    rows = np.asarray(run(list(triple)), dtype=np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    same, other = float(rows[0] @ rows[1]), float(rows[0] @ rows[2])
    return Verdict(float(same > other), f"cosine {same:.3f} against {other:.3f}")


EMBEDDING = QualityCheck(
    task="embedding",
    version=1,
    measures=(
        "Triples of English sentences: is the one that means the same nearer than the other, "
        "which in half of them shares more words? Chance is 0.5. It says nothing of retrieval "
        "among thousands of texts."
    ),
    items=tuple(
        Item(name, partial(_nearer, (text, same, other))) for name, text, same, other in _TRIPLES
    ),
    samples=lambda: (
        "The cat sleeps on the sofa.",
        [text for _, text, _, _ in _TRIPLES[:8]],
        " ".join(same for _, _, same, _ in _TRIPLES[:10]),
    ),
)
