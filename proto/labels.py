"""The 19 protein localisation classes of the HPA single-cell competition, with Kaggle's numbers.

Source: the label list of Kaggle's "Human Protein Atlas - Single Cell Classification" (2021). A label is the number of a
class; a label set is a sorted tuple of distinct labels; the empty set means "not labelled".
"""

from __future__ import annotations

from collections.abc import Iterable

LABEL_NAMES: tuple[str, ...] = (
    "Nucleoplasm",
    "Nuclear membrane",
    "Nucleoli",
    "Nucleoli fibrillar center",
    "Nuclear speckles",
    "Nuclear bodies",
    "Endoplasmic reticulum",
    "Golgi apparatus",
    "Intermediate filaments",
    "Actin filaments",
    "Microtubules",
    "Mitotic spindle",
    "Centrosome",
    "Plasma membrane",
    "Mitochondria",
    "Aggresome",
    "Cytosol",
    "Vesicles and punctate cytosolic patterns",
    "Negative",
)
NUM_LABELS = len(LABEL_NAMES)
NEGATIVE = LABEL_NAMES.index("Negative")

_LABEL_OF_NAME = {name.casefold(): label for label, name in enumerate(LABEL_NAMES)}


def parse_label(text: str) -> int:
    """Reads one label, given as Kaggle's number ("8") or as a class name ("Intermediate filaments", any case).

    Raises:
      ValueError: the text is neither a number from 0 to 18 nor a class name.
    """
    token = text.strip()
    # isascii: str.isdigit accepts superscripts and other scripts' digits, which int() reads differently or not at all.
    if token.isascii() and token.isdigit():
        if int(token) < NUM_LABELS:
            return int(token)
        raise ValueError(f"label {token} is not in 0..{NUM_LABELS - 1}")
    if token.casefold() in _LABEL_OF_NAME:
        return _LABEL_OF_NAME[token.casefold()]
    raise ValueError(f"label {token!r} is neither a number from 0 to {NUM_LABELS - 1} nor the name of a class")


def parse_label_set(text: str) -> tuple[int, ...]:
    """Reads Kaggle's text of a label set: "8|5|0" becomes (0, 5, 8); an empty text becomes ().

    A label that stands twice counts once: Kaggle's train.csv has rows such as "13|13".

    Raises:
      ValueError: a part is no label.
    """
    return tuple(sorted(set(parse_written_labels(text))))


def parse_written_labels(text: str) -> tuple[int, ...]:
    """Reads the labels of a text as they stand there, in its order and with repeats: "13|0|13" becomes (13, 0, 13).

    Raises:
      ValueError: a part is no label.
    """
    if not text.strip():
        return ()
    return tuple(parse_label(token) for token in text.split("|"))


def format_label_set(label_set: Iterable[int]) -> str:
    """Writes a label set as Kaggle does, in ascending order: (8, 5, 0) becomes "0|5|8"."""
    return "|".join(str(label) for label in sorted(label_set))
