"""Multiple choice: letter the options of a question, and find the option that an answer chooses."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORDS = "AI"
"""Letters that are words too, so that they need more around them than others do."""


def lettered(options: Sequence[str]) -> str:
    """Write a line per option: ``A. a red star``. Raises ``ValueError`` for none, or more than there are letters."""
    if not 0 < len(options) <= len(LETTERS):
        raise ValueError(f"a choice has 1 to {len(LETTERS)} options, got {len(options)}")
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))


def chosen_option(text: str, options: Sequence[str]) -> int | None:
    """Return the index of the option that an answer chooses; None if it chooses none or more than one.

    What stands in ``\\boxed{...}`` or ``<answer>...</answer>`` is the answer; otherwise all of the text is, without its
    thoughts (``<think>...</think>``). The first of these that occurs counts:

    1. a letter with the option's own words: ``B. a red star``, ``B a red star``;
    2. a letter that is said to be the answer: ``The answer is (B)``, ``Answer: $B$``, 答案是B;
    3. a letter that is chosen or called right: ``Option C``, ``I choose C``, ``C is correct``;
    4. a letter in brackets;
    5. a letter that begins a line, ``B``, ``b) ...``, ``B because ...``, and one that ends the text behind ``it is`` or
       a full stop. Before other words it needs a mark behind it, since "A red star" begins with a word;
    6. an option's own words, or the yes or no that begins the text.

    What the text denies ("not B", "B is wrong") is not chosen.
    """
    answers = {_plain(answer) for answer in _answers(text)}
    if len(answers) != 1:
        return None
    (answer,) = answers
    letters = LETTERS[: len(options)]
    with_words = {letter for letter, option in zip(letters, options) if _is_lettered(answer, letter, option)}
    if len(with_words) == 1:
        return letters.index(with_words.pop())
    for rule in _RULES:
        found = set(rule(answer, letters))
        if found:
            return letters.index(found.pop()) if len(found) == 1 else None
    return _named(answer, options)


# ------------------------------------------------------------------------------------------------------- plain text

_THOUGHTS = re.compile(r"(?s)<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|\A.*</think(?:ing)?>")
_TAGGED = re.compile(r"(?is)<answer>(.*?)(?:</answer>|\Z)")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_LATEX = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|bf|rm)\b\s*\{([^{}]*)\}")
_MARKUP = re.compile(
    r"(?m:^#+\s)|</?[a-z][\w-]*(?:\s[^<>]*)?/?>|<\|[^<>|]*\|>|\\[()\[\]]|[*`$\u200b\u200c\u200d\u2060\ufeff]"
    r"|(?<![A-Za-z0-9])_+|_+(?![A-Za-z0-9])"
)


def _answers(text: str) -> list[str]:
    """The parts of a text that are the answer: what it boxes or tags, or all of it."""
    said = _THOUGHTS.sub("", text)
    return _BOXED.findall(said) or _TAGGED.findall(said) or [said]


def _plain(text: str) -> str:
    """The text in common characters, without markup."""
    common = unicodedata.normalize("NFKC", text).replace("【", "[").replace("】", "]").replace("’", "'")
    return _MARKUP.sub("", _LATEX.sub(r"\1", common)).strip()


# ---------------------------------------------------------------------------------------------------------- letters

_OPEN = r"[\s\"'“”‘(\[{<「:=→>~\-–—]*"
_MARK = r"[.):,;\]}>、。」\"'“”!?]"
_END = r"(?![A-Za-z0-9]|'[A-Za-z])"
_JOINER = (
    r"(?:because|since|as|is|and|or|due|would|should|must|seems|looks|appears|given|considering|based|rather|not"
    r"|instead)\b"
)
_CLAUSE = re.compile(r"[.;!?\n,、。]|\b(?:but|so|therefore|thus|hence|because|while|and)\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|except|eliminat\w+|exclud\w+|rul\w+ out|wrong|incorrect|rather than"
    r"|instead of)\b|n't\b|不|非|排除|错",
    re.IGNORECASE,
)
_CERTAIN = re.compile(r"\b(?:no|without(?: a)?|not any) (?:doubt|question)\b|\bnot only\b", re.IGNORECASE)
_REJECTED = re.compile(
    r"[\"')\]}.:]*\s*(?:(?:is|was|are|can|could|does|do|must|should|would|will|be)\b\s*)*"
    r"(?:not\b|n't|cannot\b|wrong\b|incorrect\b|false\b|(?:be )?(?:ruled|eliminated|excluded)\b|unlikely\b|impossible\b"
    r"|isn't|doesn't|can't|不|错|是错)",
    re.IGNORECASE,
)
_ANSWER = (
    r"(?:\b(?:answers?(?:'s)?|ans|réponse|respuesta|antwort|risposta|resposta|ответ)\b(?:(?:\s+\w+){0,6}?\s+(?:is|be|est|es|ist"
    r"|è|é)\b)?|答案|回答|答え|正解|정답)"
)
_IS = r"\s*(?:应该是|應該是|是|为|為|は|은|는|选|選)?"
_KIND = r"(?:\s*(?:clearly|definitely|probably|most likely|likely|indeed|the|option|choice|letter|选项|選項)\b){0,4}"
_CHOICE = (
    r"(?:\b(?:options?|choices?|letter|select(?:ed|ing)?|cho?ose|chosen?|pick(?:ed|ing)?|go(?:ing)? (?:with|for)"
    r"|opt(?:ed|ing)? for|guess)\b(?:\s+(?:is|be|would be))?|选择|選擇|选项|選項|选|選)"
)
_RIGHT = (
    r"[\"')\]}]*\s+(?:is|would be|should be|must be|seems|looks|appears to be)\s+"
    r"(?:(?:the|most|likely|clearly|definitely|probably|a|my|indeed)\s+)*"
    r"(?:correct|right|best|true|answer|accurate|appropriate|likely|suitable|choice)\b"
)
_ENDING = (
    r"(?:\b(?:is|it's|be|but|think|believe|say|says|guess|definitely|probably|clearly|so|thus|hence|therefore)\b,?"
    r"|[.:!?;=→>])"
)


def _letter(letters: str, *, lower: bool = True) -> str:
    """A pattern of one of the letters standing by itself, in the group ``letter``.

    A small letter, and a capital that is a word too, must not be followed by a small word that goes on a sentence.
    """
    alone = rf"{_END}(?!\s+(?!{_JOINER})[a-z])"
    rest = "".join(letter for letter in letters if letter not in WORDS)
    words = "".join(letter for letter in letters if letter in WORDS)
    forms = [rf"[{rest}]{_END}"] * bool(rest) + [rf"[{words}]{alone}"] * bool(words)
    forms += [rf"[{letters.lower()}](?=\s*(?:{_MARK}|$|\n))"] * lower
    return rf"(?<![A-Za-z0-9])(?<![A-Za-z]')(?P<letter>{'|'.join(forms)})"


def _found(pattern: str, text: str, letters: str) -> Iterator[str]:
    """The letters that a pattern finds and nothing denies, with those listed behind them: ``B or C``, ``B, C``."""
    separated = r"\s*(?:[,/&;+、]|\b(?:and|or)\b|和|或|与)\s*(?:or\s+|and\s+)?(?:option\s+)?[(\[\"']*"
    listed = re.compile(
        rf"[)\]\"'.]*{separated}(?P<letter>[{letters}])(?=[)\]\"'.]*\s*(?:[,/&;+]|and\b|or\b|are\b|$|\n))"
    )
    for match in re.finditer(pattern, text, re.MULTILINE):
        before = _CLAUSE.split(_CERTAIN.sub("", text[: match.start("letter")]))[-1]
        end = match.end("letter")
        if _DENIED.search(before) or _REJECTED.match(text, end):
            continue
        yield match["letter"].upper()
        while further := listed.match(text, end):
            end = further.end("letter")
            yield further["letter"]


def _said(text: str, letters: str) -> Iterator[str]:
    yield from _found(rf"(?i:{_ANSWER}{_IS}{_KIND}){_OPEN}{_letter(letters)}", text, letters)


def _chosen(text: str, letters: str) -> Iterator[str]:
    yield from _found(rf"(?i:{_CHOICE}{_IS}{_KIND}){_OPEN}{_letter(letters)}", text, letters)
    yield from _found(rf"{_letter(letters, lower=False)}(?i:{_RIGHT})", text, letters)


def _bracketed(text: str, letters: str) -> Iterator[str]:
    yield from _found(rf"[(\[{{<](?P<letter>[{letters}{letters.lower()}])[)\]}}>]", text, letters)


def _leading(text: str, letters: str) -> Iterator[str]:
    capital = f"[{letters}]"
    either = f"[{letters}{letters.lower()}]"
    behind = rf"(?:\s*{_MARK}|\s+[\-–—]\s|\s*$)"
    yield from _found(rf"^{_OPEN}(?P<letter>{either}){_END}{behind}", text, letters)
    yield from _found(rf"^{_OPEN}(?P<letter>{capital})(?=\s+{_JOINER}|\s*[/&+])", text, letters)
    if re.match(rf"{capital}(?:[\s.,;)]+{capital})+\W*\Z", text):  # A B, A. B.
        yield from re.findall(capital, text)


def _ending(text: str, letters: str) -> Iterator[str]:
    yield from _found(rf"(?i:{_ENDING}){_OPEN}(?P<letter>[{letters}])(?=[)\]\"'.!,]*\s*\Z)", text, letters)


_RULES: tuple[Callable[[str, str], Iterator[str]], ...] = (_said, _chosen, _bracketed, _leading, _ending)


# ------------------------------------------------------------------------------------------------------------ words

_POLAR = {"yes", "no", "true", "false"}
_NOT = re.compile(r"(?:\b(?:not|no|never|cannot|neither|nor|without)\b|n't\b)\s*(?:\w+\s+){0,2}$")


def _words(option: str) -> str:
    """An option's own words, without marks at their ends."""
    return " ".join(_plain(option).casefold().split()).strip(" .,;:!?\"'")


def _is_lettered(answer: str, letter: str, option: str) -> bool:
    """Whether the answer is the letter and then the option's words, and nothing else."""
    rest = re.fullmatch(rf"[(\[]?{letter}{_END}[)\].:,\s\-–—]*(.+)", answer, re.DOTALL)
    return bool(rest and _words(option) and _words(rest[1]) == _words(option))


def _named(answer: str, options: Sequence[str]) -> int | None:
    """Return the only option whose words stand in the answer; of options within others, the longest."""
    rest = " ".join(answer.casefold().split())
    known = {_words(option): number for number, option in reversed([*enumerate(options)])}
    if (first := re.match(r"(\w+)(?:[.,;:!]|$)", rest)) and first[1] in _POLAR & known.keys():
        return known[first[1]]
    found = []
    for words in sorted(known, key=len, reverse=True):
        if not words:
            continue
        digits = (r"(?<![\d][.,])(?<!-)" * words[0].isdigit(), r"(?![.,]\d)" * words[-1].isdigit())
        pattern = rf"(?<!\w){digits[0]}{re.escape(words)}{digits[1]}(?!\w)"
        mentions = [match for match in re.finditer(pattern, rest) if not _NOT.search(rest[: match.start()])]
        if mentions:
            found.append(known[words])
        rest = re.sub(pattern, " ", rest)
    return found[0] if len(found) == 1 else None
