"""The tokenizer of a model trained from nothing: byte-level pairs, so that no text is unknown to it."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from worker.reader.prompts import END, IMAGE

#: Fills the shorter sequences of a batch.
PAD = "<pad>"
#: Begins every sequence.
BEGIN = "<s>"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level vocabulary from texts; the same texts give the same vocabulary.

    Parameters
    ----------
    texts
        What the model will read and write, without the special tokens.
    vocabulary
        Most tokens it may have, the 256 bytes and the four special tokens included.

    Returns
    -------
        A tokenizer that begins every text with ``<s>``, unless it is told to add no special tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[PAD, BEGIN, END, IMAGE],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False,
    )
