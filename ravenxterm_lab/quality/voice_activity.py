"""Signals made from formulas: what is certainly no speech, and bursts that resemble a voice."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.quality.base import Item, QualityCheck, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    Signal = np.ndarray[Any, np.dtype[np.float32]]

__all__ = ["VOICE_ACTIVITY", "voice_like"]

_RATE = 16_000
_WINDOW = 512
#: Samples of the window before, which Silero's models from version 5 on read too.
_CONTEXT = 64
_SECONDS = 1.6
#: Centre and bandwidth (Hz) of the first three formants of a few vowels, after G. E. Peterson
#: and H. L. Barney, "Control methods used in a study of the vowels", JASA 24 (1952), men.
_VOWELS = {
    "a": ((730, 90), (1090, 110), (2440, 170)),
    "i": ((270, 60), (2290, 110), (3010, 170)),
    "u": ((300, 60), (870, 90), (2240, 170)),
    "e": ((530, 70), (1840, 110), (2480, 170)),
}


def _times() -> Signal:
    import numpy as np

    return np.arange(int(_RATE * _SECONDS), dtype=np.float32) / np.float32(_RATE)


def _noise(seed: int, level: float) -> Signal:
    import numpy as np

    noise = np.random.default_rng(seed).normal(0, level, int(_RATE * _SECONDS))
    return noise.astype(np.float32)


def _tone(*frequencies: float) -> Signal:
    import numpy as np

    times = _times()
    waves = [np.sin(2 * np.pi * frequency * times) for frequency in frequencies]
    tone: Signal = (0.3 * sum(waves) / len(waves)).astype(np.float32)
    return tone


def _silence() -> Signal:
    import numpy as np

    return np.zeros(int(_RATE * _SECONDS), dtype=np.float32)


def _clicks() -> Signal:
    signal = _silence()
    signal[:: _RATE // 4] = 0.8
    return signal


def voice_like(vowels: str, pitch: float, seed: int) -> Signal:
    """Return syllables of a synthetic voice: pulses through formant resonators.

    A pulse train with a falling, trembling pitch drives two-pole resonators in cascade
    (D. H. Klatt, "Software for a cascade/parallel formant synthesizer", JASA 67 (1980)).

    Parameters
    ----------
    vowels : str
        One syllable each, of ``a``, ``e``, ``i`` and ``u``.
    pitch : float
        Mean fundamental frequency (Hz).
    seed : int
        Of the breath noise and the tremble.

    Returns
    -------
    numpy.ndarray
        float32 at 16 kHz, within ±0.5.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    total = int(_RATE * _SECONDS)
    out = np.zeros(total)
    length = total // len(vowels)
    for number, vowel in enumerate(vowels):
        fundamental = pitch * (1.1 - 0.25 * np.linspace(0, 1, length))
        fundamental *= 1 + 0.01 * np.cumsum(rng.normal(0, 0.1, length)) / 10
        phase = np.cumsum(fundamental / _RATE)
        source = np.diff(np.floor(phase), prepend=0.0) + rng.normal(0, 0.003, length)
        for centre, width in _VOWELS[vowel]:
            source = _resonate(source, centre, width)
        source /= np.abs(source).max()
        # A syllable swells and fades, and a short pause follows.
        rise = np.clip(np.minimum(np.arange(length), length * 0.85 - np.arange(length)), 0, 800)
        out[number * length : (number + 1) * length] = 0.5 * source * rise / 800
    voice: Signal = out.astype(np.float32)
    return voice


def _resonate(signal: Any, centre: float, width: float) -> Any:
    import numpy as np

    radius = np.exp(-np.pi * width / _RATE)
    second = -radius * radius
    first = 2 * radius * np.cos(2 * np.pi * centre / _RATE)
    gain = 1 - first - second
    result = np.empty_like(signal)
    before, earlier = 0.0, 0.0
    for index, value in enumerate(signal.tolist()):
        now = gain * value + first * before + second * earlier
        result[index] = now
        before, earlier = now, before
    return result


def _probabilities(signal: Signal, run: Callable[[Any], Any]) -> Any:
    import numpy as np

    state = np.zeros((2, 1, 128), dtype=np.float32)
    context = np.zeros(_CONTEXT, dtype=np.float32)
    found = []
    for start in range(0, len(signal) - _WINDOW + 1, _WINDOW):
        window = signal[start : start + _WINDOW]
        chunk = np.concatenate([context, window])[None, :]
        output = run({"input": chunk, "state": state, "sr": np.array(_RATE, dtype=np.int64)})
        found.append(float(np.ravel(output["output"])[0]))
        state, context = output["stateN"], window[-_CONTEXT:]
    return np.array(found)


def _judge(make: Callable[[], Signal], run: Callable[[Any], Any], *, voiced: bool) -> Verdict:
    import numpy as np

    share = float(np.mean(_probabilities(make(), run) > 0.5))
    # Syllables have pauses, so a quarter of the windows is a voice; a few false ones are not.
    right = share >= 0.25 if voiced else share <= 0.05
    return Verdict(float(right), f"{share:.0%} of the windows called speech")


_SIGNALS: dict[str, tuple[bool, Callable[[], Signal]]] = {
    "silence": (False, _silence),
    "faint-noise": (False, partial(_noise, 1, 0.003)),
    "noise": (False, partial(_noise, 2, 0.05)),
    "loud-noise": (False, partial(_noise, 3, 0.2)),
    "tone-100": (False, partial(_tone, 100.0)),
    "tone-440": (False, partial(_tone, 440.0)),
    "tone-3000": (False, partial(_tone, 3000.0)),
    "chord": (False, partial(_tone, 262.0, 330.0, 392.0)),
    "clicks": (False, _clicks),
    "voice-low": (True, partial(voice_like, "aeia", 110.0, 1)),
    "voice-middle": (True, partial(voice_like, "uaie", 140.0, 2)),
    "voice-high": (True, partial(voice_like, "eaiu", 210.0, 3)),
    "voice-slow": (True, partial(voice_like, "ai", 120.0, 4)),
    "voice-quick": (True, partial(voice_like, "aiaeuaie", 150.0, 5)),
}


def _sample() -> dict[str, Any]:
    import numpy as np

    return {
        "input": np.concatenate([np.zeros(_CONTEXT, np.float32), _noise(1, 0.05)[:_WINDOW]])[None],
        "state": np.zeros((2, 1, 128), dtype=np.float32),
        "sr": np.array(_RATE, dtype=np.int64),
    }


VOICE_ACTIVITY = QualityCheck(
    task="voice_activity_detection",
    version=1,
    measures=(
        "Signals made from formulas: silence, noise, tones and clicks must not be called "
        "speech, and syllables of a synthetic voice must. It finds a model that calls "
        "everything or nothing speech; it does not measure how well real speech is found."
    ),
    items=tuple(
        Item(name, partial(_judge, make, voiced=voiced))
        for name, (voiced, make) in _SIGNALS.items()
    ),
    samples=lambda: (_sample(),),
)
