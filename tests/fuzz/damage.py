"""Ways to damage bytes and JSON-like values, as hypothesis strategies."""

from typing import Any

from hypothesis import strategies as st

ODD = st.sampled_from(
    [
        None, True, False, -1, 0, 1, 2, 7, 2**31, 2**63, 2**64, 10**30, -0.5, 0.5, 1e308, -1e308,
        float("nan"), float("inf"), float("-inf"), "", "x", "é\u202e\0", "../../../harm",
        "/etc/passwd",
        "~", "$(touch harm)", "; touch harm", "%s{0}", "a" * 5000, [], [[]], {}, {"a": 1}, [1, "a"],
    ]
)  # fmt: skip
LEAF = ODD | st.text(max_size=20) | st.integers() | st.floats()
VALUE = st.recursive(
    LEAF, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x, max_size=3)
)
DEEP = "[" * 100_000


@st.composite
def damaged(draw: Any, whole: bytes) -> bytes:
    """Bytes that were cut, overwritten, lengthened or mixed up in up to four places."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        size = draw(st.sampled_from([1, 2, 4, 8, 64, 1000]))
        match draw(st.sampled_from(["cut", "set", "flip", "insert", "delete", "repeat", "zero"])):
            case "cut":
                del content[at:]
            case "set":
                content[at : at + size] = draw(st.binary(min_size=1, max_size=8))
            case "flip" if at < len(content):
                content[at] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=64))
            case "delete":
                del content[at : at + size]
            case "repeat":
                content[at:at] = content[at : at + size] * draw(st.integers(1, 3))
            case "zero":
                content[at : at + size] = bytes(len(content[at : at + size]))
    return bytes(content)


@st.composite
def edited(draw: Any, value: Any) -> Any:
    """A JSON-like value in which one to three nodes were replaced, dropped, renamed or added."""
    for _ in range(draw(st.integers(1, 3))):
        value = draw(_edited_once(value))
    return value


@st.composite
def _edited_once(draw: Any, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 9)) == 0:
        return draw(VALUE)
    copy = value.copy()
    keys = list(copy) if isinstance(copy, dict) else list(range(len(copy)))
    key = draw(st.sampled_from(keys))
    match draw(st.integers(0, 11)):
        case 0:
            del copy[key]
        case 1 if isinstance(copy, dict):
            copy[draw(st.text(max_size=8))] = copy.pop(key)
        case 2 if isinstance(copy, dict):
            copy[draw(st.text(max_size=8))] = draw(VALUE)
        case 3 if isinstance(copy, list):
            copy.append(draw(VALUE))
        case _:
            copy[key] = draw(_edited_once(copy[key]))
    return copy
