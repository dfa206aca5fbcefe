"""Write Hugging Face's tokenizer files: `tokenizer.json`, its config and special tokens."""

from pipeline.schema import CLS, JOINER, MASK, PAD, SEP, UNK
from pipeline.storage.strict_json import JsonObject
from pipeline.text.tokenizer import MAX_WORD_BYTES, Vocabulary

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"

NAMES = {
    "unk_token": UNK,
    "sep_token": SEP,
    "pad_token": PAD,
    "cls_token": CLS,
    "mask_token": MASK,
}
"""Special tokens by their names in `transformers`."""


def _part(name: str, segment: int) -> JsonObject:
    """Return an element of a `tokenizer.json` template: a special token, or text A or B."""
    kind = "Sequence" if name in "AB" else "SpecialToken"
    return {kind: {"id": name, "type_id": segment}}


SINGLE = [_part(CLS, 0), _part("A", 0), _part(SEP, 0)]
PAIR = [*SINGLE, _part("B", 1), _part(SEP, 1)]
"""Templates for one text and for two texts, with the segment of each part."""


def tokenizer_files(vocabulary: Vocabulary, *, lower_case: bool, max_length: int) -> JsonObject:
    """Return the contents, by name, of the files from which `transformers` loads a tokenizer."""
    common = {
        **NAMES,
        "do_lower_case": lower_case,
        "tokenize_chinese_chars": True,
        "strip_accents": None,
    }
    config = {"tokenizer_class": "BertTokenizer", "model_max_length": max_length, **common}
    return {
        TOKENIZER: _whole(vocabulary, lower_case),
        TOKENIZER_CONFIG: config,
        SPECIAL_TOKENS_MAP: NAMES,
    }


def _whole(vocabulary: Vocabulary, lower_case: bool) -> JsonObject:
    """Return the contents of `tokenizer.json`."""
    special = sorted(NAMES.values(), key=vocabulary.ids.__getitem__)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)

    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": vocabulary.ids[token], "content": token, **flags, "special": True}
            for token in special
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": lower_case,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": SINGLE,
            "pair": PAIR,
            "special_tokens": {
                token: {"id": token, "ids": [vocabulary.ids[token]], "tokens": [token]}
                for token in (CLS, SEP)
            },
        },
        "decoder": {"type": "WordPiece", "prefix": JOINER, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": UNK,
            "continuing_subword_prefix": JOINER,
            # Our limit is in bytes, theirs in characters. `transformers` itself always uses 100.
            "max_input_chars_per_word": MAX_WORD_BYTES,
            "vocab": vocabulary.ids,
        },
    }
