"""The tokenizer of the embedded models: every word of the generated world is one token, all other text is bytes.

A time has a token for its hundreds of seconds, if any, one for the rest, and one for what follows: ``1205.0s`` is
``12``, ``05``, ``.0s``. So a time is copied token by token, and every token is met in short films too.
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from videoxl.world.film import COLORS, SHAPES

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>", "<|image_pad|>")
QWEN3_SPECIAL_TOKENS = (*SPECIAL_TOKENS[:3], "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "<|image_pad|>")
SPLIT = "|".join(
    [
        r"\d+(?=\d\d\.\d)",  # hundreds of seconds
        r"\d{1,2}(?=\.\d)",  # the rest of them
        r"\.\d seconds>",
        r"\.\ds:?",
        r"\d",
        r" ?\p{L}+ (?=\d)",  # a word keeps the space in front of a number, so that numbers never have one
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\s*[\r\n]+",
        r"\s+",
        r"[^\s\p{L}\p{N}]",
    ]
)
SENTENCES = (
    "You are a helpful assistant.",
    "system user assistant",
    "What color is the number on card Which shape When shown at Is there an a How many shapes are with",
    "What is shown after before first last Which of these is shown and when nothing yes no",
    "The video shows things from to. In it, Where Who Why Does Do Can Describe List it this that film picture time",
)
"""Words that get a token, as they stand at the begin of a text and behind a space."""


QWEN3_TIMES = tuple(f".{n} seconds>" for n in range(10))
"""How times end as Qwen3-VL is told them."""


def _pieces() -> list[str]:
    words = {w.strip(".,?") for sentence in SENTENCES for w in sentence.split()} | set(COLORS) | set(SHAPES)
    numbers = {str(n) for n in range(100)} | {f"{n:02d}" for n in range(10)}
    ends = {f".{n}s{colon}" for n in range(10) for colon in ("", ":")}
    before_numbers = {"Time ", " at ", " to ", "at ", " with ", "with "}
    return sorted(words | {f" {w}" for w in words} | numbers | ends | before_numbers | {"A", "B", "C", "D"})


def tokenizer(*, qwen3: bool = False) -> PreTrainedTokenizerFast:
    """Any text goes in and comes out unchanged; text in the world's words is short. ``qwen3``: with the marks and times
    of Qwen3-VL's prompts."""
    special, pieces = (QWEN3_SPECIAL_TOKENS, [*_pieces(), *QWEN3_TIMES]) if qwen3 else (SPECIAL_TOKENS, _pieces())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = ["".join(part for part, _ in level.pre_tokenize_str(piece)) for piece in pieces]
    names = [*alphabet, *(name for name in known if name not in set(alphabet))]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"), level])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[token for token in special if token not in ("<|im_end|>", "<|endoftext|>")],
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )
