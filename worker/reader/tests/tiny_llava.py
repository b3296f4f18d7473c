"""A Llava of some thousand random weights, saved as a real directory: it knows nothing and loads in a moment."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from worker.reader.registry import ModelEntry

IMAGE_SIZE = 28
_TEXTS = ("USER: <image>\nIs there an effusion? ASSISTANT: yes no left right bilateral none 左侧 双侧 Describe this.",)


def tokenizer() -> Any:
    """Train a byte-level tokenizer with the special tokens Llava needs."""
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    built.train_from_iterator(_TEXTS, trainer)
    built.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", built.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )


def save_tiny_llava(
    directory: Path, *, seed: int = 0, image_size: int = IMAGE_SIZE, dtype: torch.dtype = torch.float32
) -> Any:
    """Save a random Llava and return the model in memory."""
    words = tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=image_size,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=words.pad_token_id,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
        ),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(image_size // 14) ** 2,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            # Large random weights, so that no two answers are nearly as probable as each other.
            weight.normal_(0, 0.3)
    model = model.to(dtype)
    model.save_pretrained(directory)
    words.save_pretrained(directory)
    return model


def entry(directory: Path, **changes: Any) -> ModelEntry:
    """Describe the directory as an entry of the registry."""
    content: dict[str, Any] = {
        "name": "tiny",
        "version": "0",
        "kind": "native",
        "directory": directory,
        "licence": "Apache-2.0",
        "clinical": False,
        "languages": ["en"],
        "modalities": ["CR", "DX"],
        "image": {"size": IMAGE_SIZE, "mean": [0.5, 0.5, 0.5], "std": [0.3, 0.3, 0.3]},
        "prompts": {"draft": {"en": "Describe this."}},
        "generate": {"max_new_tokens": 12},
    }
    return ModelEntry.model_validate(content | changes)
