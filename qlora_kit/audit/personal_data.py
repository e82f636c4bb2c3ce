"""Personal data in text: e-mail addresses, phone numbers, cards, accounts, national numbers.

A number counts when its own checksum or its official form says so. Order numbers, dates,
versions and prices have neither; where form alone could deceive, the words before it decide.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from ..data import HANGUL, RUN_ON_LETTERS, WORD_SIGNS

MASKS = {
    "e-mail address": "[EMAIL]",
    "IBAN": "[IBAN]",
    "card number": "[CARD]",
    "phone number": "[PHONE]",
}
NATIONAL_MASK = "[ID NUMBER]"

# Signs that may stand right beside an address or a number.
_UNSPACED = WORD_SIGNS + RUN_ON_LETTERS + HANGUL
_SIGN = rf"[^\W{_UNSPACED}]"
_PART = rf"[^\W_{_UNSPACED}]"
_EMAIL = re.compile(
    rf"(?<!{_SIGN})(?<![.+-]){_SIGN}(?:{_SIGN}|[.+'\u2019-]){{0,63}}"
    rf"@(?:{_PART}(?:(?:{_SIGN}|-){{0,61}}{_PART})?\.)+[^\W\d_{_UNSPACED}]{{2,24}}"
    rf"(?!{_SIGN}|@|:[\w/~])"
)
_FILES = ("png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css", "json", "py", "html")
_IBAN = re.compile(r"(?<![A-Za-z0-9_])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}(?![A-Za-z0-9_])")
_CARD = re.compile(r"(?<![A-Za-z0-9_.,+-])\d(?:[ -]?\d){12,18}(?![A-Za-z0-9_-])(?![.,]\d)")
_LAST_GROUP = re.compile(r"[ -]\d{2,4}$")
# What cards begin with, and how long they then are (ISO/IEC 7812 issuers).
_ISSUERS = (
    (re.compile(r"4"), {13, 16, 19}),  # Visa
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), {16}),  # Mastercard
    (re.compile(r"3[47]"), {15}),  # American Express
    (re.compile(r"3(?:0[0-5]|[68])"), {14}),  # Diners Club
    (re.compile(r"6011|64[4-9]|65"), {16, 19}),  # Discover
    (re.compile(r"35(?:2[89]|[3-8])"), {16}),  # JCB
    (re.compile(r"62"), {16, 17, 18, 19}),  # UnionPay
)
# Name, written form, module of python-stdnum that checks it, and whether the form is so plain
# that a word before must say what it is.
_NATIONAL = (
    ("US social security number", r"\d{3}([- ])\d{2}\1\d{4}", "us.ssn", ""),
    ("US social security number", r"\d{9}", "us.ssn", r"ssn|social security"),
    ("UK NHS number", r"\d{3}[ -]?\d{3}[ -]?\d{4}", "gb.nhs", r"nhs"),
    ("Spanish DNI", r"\d{8}-?[A-Z]", "es.dni", ""),
    ("Spanish NIE", r"[XYZ]-?\d{7}-?[A-Z]", "es.nie", ""),
    ("Italian codice fiscale", r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]", "it.codicefiscale", ""),
    ("French NIR", r"[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}", "fr.nir", ""),
    ("German tax number", r"\d{2} \d{3} \d{3} \d{3}", "de.idnr", ""),
    ("German tax number", r"\d{11}", "de.idnr", r"tax|steuer|idnr|identifikation"),
    ("Brazilian CPF", r"\d{3}\.\d{3}\.\d{3}-\d{2}", "br.cpf", ""),
    ("Brazilian CPF", r"\d{11}", "br.cpf", r"cpf"),
    ("Dutch BSN", r"\d{9}", "nl.bsn", r"bsn|burgerservice"),
    ("Belgian national number", r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", "be.nn", ""),
    ("Polish PESEL", r"\d{11}", "pl.pesel", r"pesel"),
    ("Swedish personnummer", r"(?:\d{2})?\d{6}[-+]\d{4}", "se.personnummer", ""),
    ("Finnish personal code", r"\d{6}[-+A]\d{3}[0-9A-Y]", "fi.hetu", ""),
    ("Norwegian birth number", r"\d{6} ?\d{5}", "no.fodselsnummer", r"f.dselsnummer|personnummer"),
    ("Swiss AHV number", r"756\.\d{4}\.\d{4}\.\d{2}", "ch.ssn", ""),
    ("Indian Aadhaar", r"\d{4}([ -])\d{4}\1\d{4}", "in_.aadhaar", ""),
    ("Indian Aadhaar", r"\d{12}", "in_.aadhaar", r"aadh?aar"),
    ("Canadian SIN", r"\d{3}([- ])\d{3}\1\d{3}", "ca.sin", ""),
    ("Canadian SIN", r"\d{9}", "ca.sin", r"\bsin\b|social insurance"),
    ("Australian TFN", r"\d{3} ?\d{3} ?\d{3}", "au.tfn", r"tfn|tax file"),
)  # fmt: skip
# Few texts have such a run of signs, and each of these numbers is one.
_NUMBERED = re.compile(r"\d(?:(?:[ .-]|(?<=\d{6})\+)?[\dA-Z]){6}")
_NINO = re.compile(  # no checksum, but a form that nothing else has
    r"(?<![A-Za-z0-9_])(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
    r"(?: ?\d{2}){3} ?[A-D](?![A-Za-z0-9_])"
)
_PHONE = re.compile(
    r"(?<![A-Za-z0-9_.,/#$€£@=-])(?:\+ ?)?\(?\d+\)?(?:(?:[ .\-/]{1,2}|(?<=\)))\(?\d+\)?)*"
    r"(?![A-Za-z0-9_%€£-])"
)
# Also 555-123-4567, which nobody can have: who writes it so means a phone number.
_NANP = re.compile(
    r"(?:\+?1[ .-]?)?(?:\(\d{3}\) ?\d{3}[ .-]|[2-9]\d\d([ .])\d{3}\1|\d{3}-\d{3}-)\d{4}"
)
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/. ]\d{1,2}[-/. ]\d{4}")
# An IP address, a version, or a social security number that nobody can have.
_NO_PHONE = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|\d{3}-\d\d-\d{4}")
# Years, a date without marks, and hours of the day.
_TIME = re.compile(
    r"(?:19|20)\d\d[-/ ](?:19|20)\d\d|(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
)
_HOURS = re.compile(r"(?:(?:[01]\d|2[0-4])[0-5]\d[ -]?)+")
_UNITS = re.compile(
    r"\s?(?:(?:milli|micro|nano)?seconds?|secs?|ms|minutes?|mins?|hours?|days?|weeks?|months?|years?|"
    r"times|bytes|bits|[kmgt]i?b|units|pieces|people|rows|tokens|euros?|dollars?)\b",
    re.I,
)
_THING = (
    r"\b(?:orders?|invoice|ticket|tracking|serial|part|sku|model|batch|lot|ref|reference|"
    r"confirmation|booking|item|product|isbn|issn|ean|upc|gtin|version|build|firmware|article|"
    r"catalog(?:ue)?|po|rma|parcel|shipment|imei|barcode|transaction|receipt|doi|patent|asin|"
    r"license|policy|meter|reading|code|pin|id(?! card)|date|commit|error|case|ratio|range|scale)\b"
    r"|\u8ba2\u5355|\u8a02\u55ae|\u5355\u53f7|\u55ae\u865f|\u7f16\u53f7"
)
_CALLING = (
    r"\b(?:phones?|telephone|tel|mobile|cell(?:phone)?|call(?:ed|ing)?|ring|rang|text(?:ed)?|"
    r"dial|fax|whatsapp|sms|hotline|callback|voicemail|landline|reach (?:me|us|him|her|them)|"
    r"contact|handy|ph|(?:my|his|her|our|their|your) (?:(?:new|old|work|home|direct) )?number|"
    r"telefon|t.l.phone|tel.fono)\b"
    r"|\u7535\u8bdd|\u96fb\u8a71|\u624b\u673a|\u624b\u6a5f|\u8054\u7cfb|\u643a\u5e2f|\uc804\ud654"
)
_PAYING = (
    r"\b(?:cards?|credit|debit|visa|mastercard|amex|charged?|paid|pay(?:ment|ing)?|billed)\b"
    r"|\u5361\u53f7|\u5361\u865f"
)
_TOPIC = re.compile(
    rf"(?P<thing>{_THING})|(?P<calling>{_CALLING})|(?P<paying>(?<!id ){_PAYING})", re.I
)
_CONTEXT = 40  # characters before a number that say what it is; chosen by hand
_DIGITS = re.compile(r"(?:\d[^\w\n]{0,2}){6}\d|\d{6}")
_REGIONS = ("GB", "DE", "FR", "IT", "ES", "AU", "IN")  # numbers at home begin with 0 or stand bare
_CALLED = (*_REGIONS, "CN", "JP", "KR")  # where words say that it is a number to call


@dataclass(frozen=True)
class Span:
    """Personal data in a text.

    Args:
        start, end: where it stands.
        what: "e-mail address", "phone number", "US social security number" and so on.
    """

    start: int
    end: int
    what: str


def find_personal_data(text: str) -> list[Span]:
    """The personal data in a text, in order, without overlaps.

    Args:
        text: in any language.
    """
    spans: list[Span] = []
    finders: list[Callable[[str], Iterator[Span]]] = []
    if "@" in text:
        finders.append(_emails)
    if _DIGITS.search(text):
        finders += [_ibans, _cards, _national, _phones]  # the surest first
    for finder in finders:
        for span in finder(text):
            if all(span.end <= other.start or other.end <= span.start for other in spans):
                spans.append(span)
    return sorted(spans, key=lambda span: span.start)


def mask_personal_data(text: str) -> str:
    """The text with its personal data replaced by [EMAIL], [PHONE], [CARD] and so on.

    Args:
        text: in any language.
    """
    for span in reversed(find_personal_data(text)):
        text = text[: span.start] + MASKS.get(span.what, NATIONAL_MASK) + text[span.end :]
    return text


def _emails(text: str) -> Iterator[Span]:
    for match in _EMAIL.finditer(text):
        if match[0].rsplit(".", 1)[1].lower() not in _FILES:
            yield Span(match.start(), match.end(), "e-mail address")


def _searched(
    pattern: re.Pattern[str], text: str, length: Callable[[re.Match[str]], int], what: str
) -> Iterator[Span]:
    """The matches that a check accepts, and how much of each; the rest is looked at again.

    A number is often followed by another, and a pattern takes both for one.
    """
    at = 0
    while match := pattern.search(text, at):
        size = length(match)
        if size:
            yield Span(match.start(), match.start() + size, what)
        at = match.start() + max(1, size)


def _ibans(text: str) -> Iterator[Span]:
    return _searched(_IBAN, text, _iban_length, "IBAN")


def _iban_length(match: re.Match[str]) -> int:
    """How much of it is an IBAN: words may follow, and each country has one length."""
    from stdnum import iban

    written = f"{match[0]} "
    for end in range(len(match[0]), 14, -1):
        cut = written[end - 1].isalnum() and not written[end].isalnum()
        if cut and iban.is_valid(written[:end]):
            return end
    return 0


def _cards(text: str) -> Iterator[Span]:
    return _searched(_CARD, text, _card_length, "card number")


def _card_length(match: re.Match[str]) -> int:
    """How much of it is a card number; of order numbers, one in ten passes the checksum."""
    last = _LAST_GROUP.search(match[0])  # a security code, or the month it is valid to
    for end in (len(match[0]), *([last.start()] if last else [])):
        if _is_card(re.sub(r"\D", "", match[0][:end])):
            return 0 if _topic(match) == "thing" else end
    return 0


def _is_card(digits: str) -> bool:
    from stdnum import luhn

    issued = any(begins.match(digits) and len(digits) in lengths for begins, lengths in _ISSUERS)
    return issued and len(set(digits)) > 1 and bool(luhn.is_valid(digits))


def _national(text: str) -> Iterator[Span]:
    if not _NUMBERED.search(text):
        return
    for match in _NINO.finditer(text):
        yield Span(match.start(), match.end(), "UK national insurance number")
    for what, form, module, word in _NATIONAL:
        for match in _form(form).finditer(text):
            named = re.search(word, _before(match), re.I) if word else _topic(match) != "thing"
            if named and _checksum(module)(match[0]):
                yield Span(match.start(), match.end(), what)


@cache
def _form(form: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9_.,+#$€£-]){form}(?![A-Za-z0-9_-])(?![.,]\d)")


@cache
def _checksum(module: str) -> Callable[[str], bool]:
    valid: Callable[[str], bool] = import_module(f"stdnum.{module}").is_valid
    return valid


def _before(match: re.Match[str]) -> str:
    return match.string[max(0, match.start() - _CONTEXT) : match.start()]


def _topic(match: re.Match[str]) -> str:
    """What the words before a number speak of last: a "thing", "calling", "paying", or ""."""
    sentence = re.split(r"[.!?;]\s|[\u3002\uff01\uff1f]", _before(match))[-1]
    return next((topic.lastgroup or "" for topic in reversed([*_TOPIC.finditer(sentence)])), "")


def _phones(text: str) -> Iterator[Span]:
    for match in _PHONE.finditer(text):
        if _is_phone(match):
            yield Span(match.start(), match.end(), "phone number")


def _is_phone(match: re.Match[str]) -> bool:
    written = match[0]
    digits = sum(map(str.isdigit, written))
    other = any(form.fullmatch(written) for form in (_DATE, _NO_PHONE, _TIME))
    if other or not 7 <= digits <= 15:
        return False
    if written.isdigit() and _UNITS.match(match.string, match.end()):
        return False
    topic = _topic(match)
    if topic == "thing" and not written.startswith("+"):
        return False
    if written.startswith(("+", "00")):
        return _parses(re.sub(r"^00", "+", written), None, valid=False)
    if _NANP.fullmatch(written):
        return True
    groups = [len(group) for group in re.findall(r"\d+", written)]
    if topic == "calling":
        at_eight = digits >= 8 and any(_parses(written, region) for region in ("US", *_CALLED))
        return groups == [3, 4] or at_eight
    # At home elsewhere: "020 7946 0958". Without a separator it could be any number.
    grouped = 2 <= len(groups) <= 5 and min(groups) >= 2
    at_home = written.lstrip("(").startswith("0") and digits >= 9 and not _HOURS.fullmatch(written)
    return grouped and at_home and any(_parses(written, region) for region in _REGIONS)


def _parses(written: str, region: str | None, valid: bool = True) -> bool:
    import phonenumbers

    try:
        number = phonenumbers.parse(written, region)
    except phonenumbers.NumberParseException:
        return False
    check = phonenumbers.is_valid_number if valid else phonenumbers.is_possible_number
    return bool(check(number))
