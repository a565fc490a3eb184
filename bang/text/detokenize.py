"""Word pieces back to text for people: the inverse of tokenization, as far as there is one.

Word pieces say which of them make a word, but not where blanks stood around punctuation: `node . js`,
`c + +` and `don ' t` were `node.js`, `c++` and `don't`. Conventions of written English and of program
names decide here. What is ambiguous in itself stays a guess, `-` most of all (`high-level`, `library -
documentation`); `dashes.txt` holds what the words beside it say. Case is not restored.

Standard library only.
"""

from functools import lru_cache
from pathlib import Path

DASHES = Path(__file__).with_name("dashes.txt")

Joins = tuple[bool, bool]
"""Whether a mark is written next to what stands before it, and next to what stands after it."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Marks whose sides do not depend on their context.
_JOINS_BEFORE = _words(", ; ! ? : . ) ] } > % ” » …")
_JOINS_AFTER = _words("( [ { < $ ~ @ # “ « ‘ ¿ ¡")
_JOINS_BOTH = _words("/ _ \\ ^ = ' ’ . +")

_CONTRACTIONS = _words("s t re ve ll d m")  # after an apostrophe: "it's"
_ELISIONS = _words("o d l ol")  # before an apostrophe: "o'reilly"
_PREFIXES = _words("a be co de e h il im in iso la meta mis multi non out over pre re s se sub super t un wx x")
_SUFFIXES = _words("s es d ed r n m tm c nd rd st th yp")  # in parentheses: "file(s)"
_COMPOUNDS = _words("like based compatible style")  # after "foo()-"
_SUSPENDING = _words("and or to nor versus")  # after a hyphen: "two- and three-dimensional"
_FOLDERS = _words("bin boot dev etc home lib mnt opt proc run sbin srv sys tmp usr var")  # below "/"
_UNIXES = _words("bsd nix ml")  # after "*"
_BEFORE_EXTENSION = _words(  # "read .zip files", not "read.zip files"
    "a an and any as based by convert creates for from generate handle in into is like load loading loads manage "
    "managing manipulate manipulating of on one or parse parses parsing read reading register simple single some "
    "the their these to via with write writing your , / ( - * "
)
_ENDINGS = _words(  # after a dot, in whatever text: "node.js", "example.org"
    "ai app au c cc cfg cgi ch cn com conf cpp cs css csv de dev dll edu eu exe fr gov gz h hpp htm html ini io ip ir "
    "java jp jpeg jpg js json jsp log lua lv2 md net nl nz org pdf php pl pm png po ps py pyc rb rpm rs ru se sh sql "
    "src svg tar tex tgz ts tv txt tz uk wav xml yaml yml zip"
)
_ABBREVIATIONS = _words("approx corp dr etc ex impl inc jr mr mrs ms prof resp st vs")
_BEGINNINGS = _words("an he i if in it she so that the there these they this we you")  # of sentences


def detokenize(pieces: str) -> str:
    """Turns word pieces into text with blanks where people write them.

    Args:
        pieces: word pieces joined by blanks; what is a word already stays one.

    >>> detokenize("node . js bin ##ding ( http ) for c + + ; don ' t use test : : deep")
    "node.js binding (http) for c++; don't use test::deep"
    """
    line = _Line(pieces.replace(" ##", "").split())
    text, joins_next = "", True
    for index, word in enumerate(line.words):
        joins_before, joins_after = line.joins(index)
        text += word if joins_before or joins_next else f" {word}"
        joins_next = joins_after
    return text


class _Line:
    """The words and marks of a line, and how they are written next to each other."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self._is_sentence = bool(words) and words[-1] in (".", "!", "?")
        self._opening, self._closing = self._pair_quotes()

    def joins(self, index: int) -> Joins:
        """Returns the sides on which word `index` joins its neighbours."""
        word = self.words[index]
        if not _is_mark(word):
            return _is_ideograph(word) and _is_ideograph(self._at(index - 1)), False
        if index in self._opening:
            return False, True
        if index in self._closing:
            return True, False
        rule = self._RULES.get(word)
        if rule is not None:
            return rule(self, index, self._at(index - 1), self._at(index + 1))
        return word in _JOINS_BEFORE or word in _JOINS_BOTH, word in _JOINS_AFTER or word in _JOINS_BOTH

    def _at(self, index: int) -> str:
        return self.words[index] if 0 <= index < len(self.words) else ""

    def _pair_quotes(self) -> tuple[set[int], set[int]]:
        opening, closing = set(), set()
        for mark in ('"', "'", "`"):
            places = [index for index, word in enumerate(self.words) if word == mark and not self._is_apostrophe(index)]
            paired = len(places) // 2 * 2
            opening.update(places[0:paired:2])
            closing.update(places[1:paired:2])
        return opening, closing

    def _is_apostrophe(self, index: int) -> bool:
        before, after = self._at(index - 1), self._at(index + 1)
        if self.words[index] != "'" or not before.isalnum():
            return False
        return after in _CONTRACTIONS or (before in _ELISIONS and after.isalnum()) or after == "em"

    # Each rule is handed the mark's index and the words before and after it, "" at the ends of the line.

    def _apostrophe(self, index: int, before: str, after: str) -> Joins:
        if after == "em":  # shoot 'em up
            return False, True
        return True, not before.endswith("s") or after in _CONTRACTIONS  # the users' files

    def _dot(self, index: int, before: str, after: str) -> Joins:
        if "." in (before, after):  # an ellipsis, a range: "wait... what", "(a, ...)", "$a..$b"
            return before not in (",", ""), after == "." or not after.isalnum() or after.isdigit()
        if len(before) == len(after) == 1 and before.isalpha() and after.isalpha():  # "e.g."
            return True, True
        is_letter = len(before) == 1 and before.isalpha() and self._at(index - 2) == "."  # the last of "a.k.a."
        if (before in _BEFORE_EXTENSION and not is_letter) or index == 0 or index - 1 in self._opening:
            return False, True
        if not after or not (after[0].isalnum() or after[0] in "_*$"):
            return True, after == "/"
        if before[-1].isdigit() and after[0].isdigit() or after in _ENDINGS or before == "www":
            return True, True
        if len(before) == 1 and before.isalpha():  # "e.g. this", "a.k.a. that", but "m.set"
            return True, self._at(index - 2) != "." and after not in _BEGINNINGS
        ends_sentence = self._is_sentence or after in _BEGINNINGS or before in _ABBREVIATIONS
        return True, not ends_sentence

    def _comma(self, index: int, before: str, after: str) -> Joins:
        in_braces = "{" in self.words[:index] and "}" in self.words[index:]
        is_thousands = before.isdigit() and len(before) <= 3 and after.isdigit() and len(after) == 3
        return True, in_braces or is_thousands

    def _colon(self, index: int, before: str, after: str) -> Joins:
        return True, ":" in (before, after) or after == "/" or (before[-1:].isdigit() and after[:1].isdigit())

    def _slash(self, index: int, before: str, after: str) -> Joins:
        return not (before.isalnum() and after in _FOLDERS), True

    def _plus(self, index: int, before: str, after: str) -> Joins:
        if "+" in (before, after):  # c++, c++/foo, c++11
            return True, after in ("+", "/") or (after.isdigit() and len(after) == 2)
        return True, not before.isdigit() and before != "gtk" or after.startswith("deb") or after == "/"

    def _open_parenthesis(self, index: int, before: str, after: str) -> Joins:
        is_alone = self._at(index + 2) == ")"
        is_call = after == ")" or (is_alone and (after in _SUFFIXES or (after.isdigit() and len(after) == 1)))
        return before == "!" or (is_call and (before[-1:].isalnum() or before == "_")), True

    def _close_parenthesis(self, index: int, before: str, after: str) -> Joins:
        return True, self._at(index - 2) == "(" and before in _PREFIXES and after.isalnum()

    def _open_bracket(self, index: int, before: str, after: str) -> Joins:
        return before in ("#", "!", "&") or after == "]", True

    def _number_sign(self, index: int, before: str, after: str) -> Joins:
        is_language = before in ("c", "f", "j")
        return is_language or before == "pkcs", not is_language

    def _ampersand(self, index: int, before: str, after: str) -> Joins:
        is_name = len(before) <= 2 and len(after) == 1 and before.isalpha() and after.isalpha()  # at&t
        return is_name, is_name or after == "["

    def _at_sign(self, index: int, before: str, after: str) -> Joins:
        return before.isalnum() and self._at(index + 2) == ".", True

    def _percent(self, index: int, before: str, after: str) -> Joins:
        return before[-1:].isdigit(), not before[-1:].isdigit() and after.isalnum()

    def _star(self, index: int, before: str, after: str) -> Joins:
        return before == "_" or len(before) == len(after) == 1, after == "." or after in _UNIXES or len(after) == 1

    def _underscore(self, index: int, before: str, after: str) -> Joins:
        doubles = sum(self.words[place : place + 2] == ["_", "_"] for place in range(index))
        if after == "_":  # __init__
            return doubles % 2 == 1 or not before.isalnum(), True
        return True, before != "_" or doubles % 2 == 1

    def _less(self, index: int, before: str, after: str) -> Joins:
        return False, ">" in self.words[index:] or after in ("=", "-")

    def _greater(self, index: int, before: str, after: str) -> Joins:
        return "<" in self.words[:index] or before == "-", after == "="

    def _equals(self, index: int, before: str, after: str) -> Joins:
        return True, before not in ("<", ">", "!") or after == "="

    def _hyphen(self, index: int, before: str, after: str) -> Joins:
        if after == ">" or before == "<":  # arrows
            return before == "<", after == ">"
        if "-" in (before, after):  # a dash of two
            return before == "-", after == "-"
        if not after or (after in _SUSPENDING and self._at(index + 2) != "-"):
            return True, False
        if not before:
            return False, True
        if not after[0].isalnum():
            spaced = after in ('"', "(", "`", "[")
        elif not before[-1].isalnum():
            spaced = after not in _COMPOUNDS
        else:
            spaced = _is_dash(before, after, is_chain="-" in (self._at(index - 2), self._at(index + 2)))
        return not spaced, not spaced

    _RULES = {
        "'": _apostrophe, "’": _apostrophe, ".": _dot, ",": _comma, ":": _colon, "/": _slash, "+": _plus,
        "(": _open_parenthesis, ")": _close_parenthesis, "[": _open_bracket, "#": _number_sign, "&": _ampersand,
        "@": _at_sign, "%": _percent, "*": _star, "_": _underscore, "-": _hyphen, "<": _less, ">": _greater,
        "=": _equals,
    }  # fmt: skip


def _is_mark(word: str) -> bool:
    return len(word) == 1 and not word.isalnum()


def _is_ideograph(word: str) -> bool:
    """Whether the tokenizer took this character out of a text that has no blanks."""
    return len(word) == 1 and ("\u3400" <= word <= "\u9fff" or "\uf900" <= word <= "\ufaff" or word >= "\U00020000")


@lru_cache(maxsize=1)
def _dash_weights() -> dict[str, tuple[float, float]]:
    """What a word says for a dash after it, and before it: log-odds, positive for a dash between blanks."""
    rows = (line.split() for line in DASHES.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {word: (float(before), float(after)) for word, before, after in rows}


def _is_dash(before: str, after: str, is_chain: bool) -> bool:
    """Whether `-` between two words is a dash between blanks, and not a hyphen.

    Hyphens are more common, the more so in a chain (`state-of-the-art`).
    """
    weights = _dash_weights()
    odds = weights.get(before, (0.0, 0.0))[0] + weights.get(after, (0.0, 0.0))[1]
    return odds > (3.0 if is_chain else 1.0)
