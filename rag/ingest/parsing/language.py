"""Detection of a text's language."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lingua import LanguageDetector

_LANGUAGES = [
    "ARABIC", "BOKMAL", "CHINESE", "CZECH", "DANISH", "DUTCH", "ENGLISH", "FINNISH", "FRENCH", "GERMAN", "GREEK", "HEBREW", "HINDI",
    "HUNGARIAN", "ITALIAN", "JAPANESE", "KOREAN", "POLISH", "PORTUGUESE", "ROMANIAN", "RUSSIAN", "SPANISH", "SWEDISH", "TURKISH",
    "UKRAINIAN", "VIETNAMESE",
]  # fmt: skip
_SHORTEST = 40  # characters; the detector only guesses on a shorter text
_SAMPLE = 1_000  # characters, from the middle, because boilerplate is at the ends


@lru_cache(maxsize=1)
def detector() -> LanguageDetector:
    """Return the detector in low accuracy mode: trigrams only, which take 45 MB and half a millisecond instead of a gigabyte."""
    from lingua import Language, LanguageDetectorBuilder  # slow to load, so only a process that parses loads it

    chosen = [getattr(Language, name) for name in _LANGUAGES]
    return (
        LanguageDetectorBuilder.from_languages(*chosen)
        .with_low_accuracy_mode()
        .with_preloaded_language_models()
        .build()
    )


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code, or None when the text is too short to detect its language."""
    middle = max(0, (len(text) - _SAMPLE) // 2)
    sample = text[middle : middle + _SAMPLE]
    if sum(character.isalpha() for character in sample) < _SHORTEST:
        return None
    language = detector().detect_language_of(sample)
    return language.iso_code_639_1.name.lower() if language else None
