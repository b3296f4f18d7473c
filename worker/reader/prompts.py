r"""The words around a question: what the model is sent, in serving and in training alike.

The image comes first and the question after it, so that every question about one study begins with the
same tokens and the image is encoded once::

    <s>USER: <image>\n{instruction} ASSISTANT: {answer}</s>USER: {question} ASSISTANT: {answer}</s>

No function here adds ``<s>``: the tokenizer does, once, at the beginning of a sequence. Every piece ends
where the tokenizer would split anyway (before a space or after a newline), so pieces that are tokenised
one by one and then joined are the same tokens as the whole text tokenised at once.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

#: What stands for the whole image in the text; the tokenizer repeats it once per image token.
IMAGE = "<image>"
#: What ends an answer.
END = "</s>"
#: Grows when the wording below changes, so that a digest never means two wordings.
TEMPLATE = 1


def prefix() -> str:
    """Return the beginning that every first turn about an image shares."""
    return f"USER: {IMAGE}\n"


def question_after_image(instruction: str) -> str:
    """Return what follows `prefix` in the first turn, up to the place where the answer begins."""
    return f"{instruction} ASSISTANT:"


def first_turn(instruction: str) -> str:
    """Return the prompt that asks for `instruction` about one image."""
    return prefix() + question_after_image(instruction)


def further_turn(question: str) -> str:
    """Return the prompt of a later question in the same conversation; it follows an `answer`."""
    return f"USER: {question} ASSISTANT:"


def answer(text: str) -> str:
    """Return an answer as the model is taught to give it: a space, the text, the end mark."""
    return f" {text}{END}"


def prompt_digest(instruction: str, questions: Sequence[tuple[str, Sequence[str]]] = ()) -> str:
    """Identify everything a study is asked, so that two readings can be told to have been asked the same.

    Parameters
    ----------
    instruction
        What asks for the draft report, in the language of the draft.
    questions
        One pair per preset check: its question and the texts of its allowed answers, in order.

    Returns
    -------
        64 hexadecimal digits: the SHA-256 of the canonical JSON of the prompts as sent.
    """
    asked: Mapping[str, object] = {
        "template": TEMPLATE,
        "draft": first_turn(instruction),
        "checks": [[first_turn(question), [answer(text) for text in texts]] for question, texts in questions],
    }
    canonical = json.dumps(asked, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
