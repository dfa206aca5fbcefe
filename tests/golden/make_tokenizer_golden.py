# /// script
# requires-python = "==3.11.*"
# dependencies = ["absl-py==2.5.1", "bert-tensorflow==1.0.4", "tokenizers==0.23.3"]
# ///
"""Write `tokenizer.json`: what two independent BERT tokenizers make of difficult text.

Google's is the Python of google-research/bert, as `bert-tensorflow` packages it; the other is
Hugging Face's Rust `tokenizers`. The project's tests need neither, only what is written here:

    uv run tests/golden/make_tokenizer_golden.py [FOLDER]

FOLDER has real text in `books/` and `wikitext2/`; without it their digests stay as they are.
"""

import hashlib
import json
import lzma
import sys
import types
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from itertools import chain, groupby
from pathlib import Path
from random import Random

# bert-tensorflow imports TensorFlow only to read files, and none is read with it here.
for name in ("tensorflow", "tensorflow.compat", "tensorflow.compat.v1"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["tensorflow.compat"].v1 = sys.modules["tensorflow.compat.v1"]

from absl import flags  # noqa: E402
from bert import tokenization  # noqa: E402
from tokenizers.implementations import BertWordPieceTokenizer  # noqa: E402

HERE = Path(__file__).parent
GOLDEN = HERE / "tokenizer.json"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

Tokenize = Callable[[str], list[str]]

THAI, CYRILLIC, HINDI = "ภาษาไทยง่ายนิดเดียว", "достопримечательность", "विश्वविद्यालय"

TEXTS = {
    "plain": [
        "",
        " ",
        "The quick brown fox jumps over the lazy dog.",
        "Unaffable, isn't it? It's John's; they'd've gone.",
        "HELLO World iPhone McDonald's O'Neill",
        "state-of-the-art e-mail co-operate -- yes",
        "tokenization antidisestablishmentarianism supercalifragilisticexpialidocious",
    ],
    "digits": [
        "3.14159 1,000,000 1e-9 0x7F 2024-02-29 12:30",
        "١٢٣ ०१२ ௧௨ 一二三 Ⅻ ⅻ ½ ¾ ² ³ ① ⑳ ㊿ 𝟘𝟙𝟚 １２３",
        "$3.50 €20 £5 ¥100 ₹9 ₿1 50% 5‰ №7 #1 @home",
    ],
    "punctuation": [
        r"""!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~""",
        "“Quoted,” she said—‘no’… really?! «oui» „ja“ ‹x› –—―‐‑",
        "¡Hola! ¿Qué? · ‡ † • ‣ ‥ … ‧ § ¶ © ® ™ ° ± × ÷ ¬ ¦ ¨ ´ ¸ ˆ ˜",
        "、。〈〉《》「」『』【】〔〕〖〗〜！？，．：；（）［］｛｝",
        "؟ ، ؛ ۔ ՞ ՜ ՝ ։ ׃ ־ ।॥ ๏ ๚ ๛ ༎ ། ᙮ ᠃ ‽ ⸮ ⸺ ⹂",
        "(unpaired [brackets {here \"and ' there",
        "a....b----c____d====e****f",
        "`code` ~tilde~ ^caret^ $var <tag> a|b a&b a+b a=b",
    ],
    "url": [
        "https://user:pw@example.com:8080/a/b_c.html?q=1&r=%20#frag",
        "mailto:jane.doe+tag@example.co.uk www.example.org C:\\dir\\file.txt",
    ],
    "emoji": [
        "😀 😀😀 hi😀there",
        "👩‍👩‍👧‍👦 family 👨🏽‍💻 coder 🏳️‍🌈 flag 🇩🇪🇯🇵",
        "👍👍🏻👍🏿 ❤ ❤️ ❤︎ ☎️ 1️⃣ #️⃣ *️⃣ ©️ ™️",
        "🏴󠁧󠁢󠁥󠁮󠁧󠁿 ☃ ♥ ♬ → ← ⇒ ∞ √ ∑ ≠ ≤",
    ],
    "cjk": [
        "这是一句话。那是另一句吗？是的！",
        "漢字かな交じり文とカタカナ、半角ｶﾅ。",
        "北京2008年 iPhone手机 中A国b",
        "㐀㐁 𠀀𠀁 𪜀 𫝀 𫠠 𫢸 𬺰 豈更 丽丸 ⼀⼁ ⺀ ㊥ ㈱ 々〆〇",
        "한국어 문장입니다. 각 가 힣 ㄱㄴ",
        unicodedata.normalize("NFD", "한국어 문장입니다."),
    ],
    "combining": [
        "café naïve Ångström façade Zürich São Tomé",
        unicodedata.normalize("NFD", "café naïve Ångström façade Zürich São Tomé"),
        "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘",
        "\u0301leading \u0301 alone a\u0301\u0327b q\u0307\u0323 q\u0323\u0307",
        "Ǆ ǅ ǆ ﬁ ﬂ ﬃ ﬆ Ĳ ĳ ŉ ſ K Å Ω",
    ],
    "case": [
        "İstanbul ISPARTA ıspanak İ I ı i",
        "straße STRASSE ẞ Maße",
        "ΟΔΥΣΣΕΥΣ Σ ΑΣ ΑΣ. ΑΣ' Σ.Α ΑΣΑ ὈΔΥΣΣΕΎΣ σς ΆΈΉΊΌΎΏ ΐΰ",
        "МОСКВА Ёж Ѐ Й Ӑ ԱՐԵՎ ՙև ႠႡ ᲐᲑ Ꭰ Ꭸ 𐐀𐐁 ＡＢＣ ａｂｃ Ⓐⓐ",
        "TITLE Mixed mIxEd ÀÉÎÕÜ àéîõü Ø ø Đ đ Ł ł Æ æ Œ œ Þ þ",
    ],
    "scripts": [
        "שלום עולם שָׁלוֹם לְכוּלָּם ״ציטוט״",
        "السلام عليكم العَرَبِيَّة ـــ لا ﷲ ﷺ ﻻ میخواهم می‌خواهم",
        "नमस्ते दुनिया क्ष त्र ज्ञ क्‍ष क्‌ष",
        "สวัสดีชาวโลก ภาษาไทยง่ายนิดเดียว กำ เเ",
        "বাংলা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල ქართული አማርኛ ខ្មែរ ລາວ မြန်မာ བོད་ཡིག ᠮᠣᠩᠭᠣᠯ",
        "Tiếng Việt có dấu: ă â đ ê ô ơ ư ạ ả ấ ầ ẩ ẫ ậ",
        "\u202eright to left\u202c \u2067isolate\u2069 \u200fmark\u200e",
    ],
    "space": [
        "a\tb\nc\rd\r\ne\x0bf\x0cg",
        "non\u00a0breaking thin\u2009space ideographic\u3000space ogham\u1680mark",
        "line\u2028separator paragraph\u2029separator next\u0085line",
        "zero\u200bwidth joiner\u200d non\u200cjoiner word\u2060joiner bom\ufeff \ufeffstart",
        "soft\u00adhyphen co\u00adoperate \u180emongol \u2003\u2004em",
    ],
    "control": [
        "nul\x00inside a\x00 \x00b \x00",
        "bell\x07 esc\x1b[31mred\x1b[0m del\x7f c1\x80\x9f unit\x1fsep file\x1csep",
        "replacement\ufffdcharacter \ufffd nonchar\uffff\ufffe private\ue000\uf8ff",
        "tag\U000e0041 interlinear\ufff9a\ufffab\ufffb object\ufffc",
    ],
    "special": [
        "[CLS] the [MASK] barked [SEP] [PAD] [UNK]",
        "[mask] [Mask] [ MASK ] [[MASK]] x[MASK]y [MASK][MASK].",
        "[unused1] [unused0] ##ing ## # ##",
    ],
    "long": [f"before {'a' * length} after" for length in (99, 100, 101, 199, 200, 201)]
    + [f"x {word * times} y" for word in (CYRILLIC, THAI, HINDI) for times in (2, 4, 5, 9)]
    + ["a" * 800, "a" * 801, "ж" * 400, "ก" * 266, "ก" * 267, "𐍈" * 200, "𐍈" * 201, "é" * 150]
    + ["ab1" * 40, "-" * 300, "中" * 250, "x," * 150],
}  # fmt: skip


def is_text(character: str) -> bool:
    """Return whether a vocabulary may contain a character: no white space, control or surrogate."""
    return unicodedata.category(character)[0] not in "CZ"


def one_per_character(characters: Iterable[str]) -> list[str]:
    """Return a vocabulary in which every word is spelled out, so that nothing hides in [UNK]."""
    alphabet = sorted(filter(is_text, set(characters)))
    return [*SPECIAL, *alphabet, *("##" + character for character in alphabet)]


def google(pieces: Sequence[str], lower_case: bool) -> Tokenize:
    """Return google-research/bert's tokenizer."""
    flags.FLAGS.mark_as_parsed()
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    basic = tokenization.BasicTokenizer(lower_case, vocabulary)
    wordpiece = tokenization.WordpieceTokenizer(vocabulary)
    return lambda text: [p for word in basic.tokenize(text) for p in wordpiece.tokenize(word)]


def huggingface(pieces: Sequence[str], lower_case: bool) -> Tokenize:
    """Return Hugging Face's tokenizer."""
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=lower_case)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).tokens


def characters() -> list[str]:
    """Return every assigned character; of Hangul one syllable in 97, of private use the ends."""
    assigned = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")
        and (not 0xAC00 <= code <= 0xD7A3 or code % 97 == 0)
    ]
    return [*assigned, "\ue000", "\uf8ff", "\U000f0000", "\U0010fffd"]


def fuzz(pool: Sequence[str]) -> list[str]:
    """Return a text for every block of 256 code points, mixed with difficult characters."""
    mixed = "abcXYZ  \t\n\u00a0\u2028\u0301\u0327\u200d\ufe0f\x00\x1b.,'-[]ΣσİßÉ中가"
    texts = []
    for block, members in groupby(pool, lambda character: ord(character) >> 8):
        if 0x35 <= block < 0x4D or 0x50 <= block < 0x9F or 0x202 <= block < 0x312:
            continue  # ideographs, each like the next
        rng, here = Random(block), list(members)
        texts.append("".join(rng.choice(here if rng.random() < 0.6 else mixed) for _ in range(40)))
    return texts


def ranges(codes: Iterable[int]) -> str:
    """Write ascending code points as for example `C0-D6 D8`."""
    runs = groupby(enumerate(codes), lambda pair: pair[1] - pair[0])
    ends = [[code for _, code in run] for _, run in runs]
    return " ".join(f"{run[0]:X}-{run[-1]:X}" if run[1:] else f"{run[0]:X}" for run in ends)


def outcome(tokens: list[str], character: str) -> str:
    """Say what became of a character between `a` and `b`; where nothing simple, the words."""
    found = " ".join(tokens).replace(" ##", "")
    kinds = {"ab": "dropped", "a b": "space", f"a{character}b": "kept"}
    return "alone" if found == f"a {character} b" else kinds.get(found, found)


def fates(pool: Sequence[str], tokens: Sequence[str], default: Sequence[str]) -> dict[str, str]:
    """Return the code points of each outcome, those with the default outcome left out."""
    found: dict[str, list[int]] = {}
    for character, fate, usual in zip(pool, tokens, default, strict=True):
        if fate != usual:
            found.setdefault(fate, []).append(ord(character))
    return {fate: ranges(codes) for fate, codes in found.items()}


def both(texts: Sequence[str], pieces: Sequence[str], lower_case: bool) -> list[dict[str, str]]:
    """Return every text with its tokens by Google, and by Hugging Face where those differ."""
    one, other = google(pieces, lower_case), huggingface(pieces, lower_case)
    return [
        {"text": text, "google": " ".join(one(text))}
        | ({"huggingface": " ".join(other(text))} if one(text) != other(text) else {})
        for text in texts
    ]


def spelled(texts: Sequence[str], pieces: Sequence[str], lower_case: bool) -> list[dict[str, str]]:
    """Return the same for a vocabulary of single characters, with whole words for brevity."""
    return [
        {key: value if key == "text" else value.replace(" ##", "") for key, value in entry.items()}
        for entry in both(texts, pieces, lower_case)
    ]


def digests(folder: Path, pieces: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return, for each file of real text, the SHA-256 of its int32 ids by each tokenizer."""
    ids = {piece: index for index, piece in enumerate(pieces)}
    by = {"google": google(pieces, True), "huggingface": huggingface(pieces, True)}
    files = sorted([*folder.glob("books/*"), *folder.glob("wikitext2/*.txt")])
    return {
        str(file.relative_to(folder)): {
            name: hashlib.sha256(
                array("i", (ids[token] for line in lines for token in tokenize(line)))
            ).hexdigest()
            for name, tokenize in by.items()
        }
        for file in files
        for lines in [file.read_text(encoding="utf-8").split("\n")]
    }


def main(folder: Path | None) -> None:
    """Write the file."""
    published = lzma.decompress((HERE / "vocab_uncased_en.txt.xz").read_bytes()).decode().split()
    pool = characters()
    alphabet = one_per_character(pool)
    agreed, by_mode = set(pool), {}
    for mode, lower_case in (("cased", False), ("uncased", True)):
        one, other = (
            [outcome(tokenize(f"a{character}b"), character) for character in pool]
            for tokenize in (google(alphabet, lower_case), huggingface(alphabet, lower_case))
        )
        by_mode[mode] = {
            "google": fates(pool, one, ["kept"] * len(pool)),
            "huggingface": fates(pool, other, one),
        }
        agreed &= {c for c, fate, same in zip(pool, one, other, strict=True) if fate == same}
    chosen = [text for name, group in TEXTS.items() if name != "long" for text in group]
    # Characters that the two treat alike: the fuzz is about how they work on each other.
    chosen += fuzz([character for character in pool if character in agreed])
    letters = "".join(chosen) + "".join(chosen).lower()
    own = one_per_character(letters + unicodedata.normalize("NFD", letters))
    known = json.loads(GOLDEN.read_text(encoding="utf-8"))["files"] if GOLDEN.exists() else {}
    golden = {
        "made_with": {name: version(name) for name in ("bert-tensorflow", "tokenizers")}
        | {"unicode": unicodedata.unidata_version},
        "alphabet": "".join(piece for piece in own if len(piece) == 1),
        "texts": {
            "published": both(list(chain(*TEXTS.values())), published, True),
            "uncased": spelled(chosen, own, True),
            "cased": spelled(chosen, own, False),
        },
        "characters": by_mode,
        "files": digests(folder, published) if folder else known,
    }
    GOLDEN.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
