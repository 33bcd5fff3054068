"""Errors in one line: of the machine, of settings, of names."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from cwm.infra.errors import (
    UserError,
    check_utf8,
    explain_system_error,
    explain_validation,
    unknown,
)


class Facts(TypedDict):
    size: int


def test_lack_of_memory_is_recognised_on_gpu_and_cpu():
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
    assert explain_system_error(full).startswith("out of memory (CUDA out of memory. Tried")
    with pytest.raises(MemoryError) as error:
        np.empty(1 << 50)
    assert "Unable to allocate 8.00 PiB" in explain_system_error(error.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), FileNotFoundError(2, "No such file", "a")]
)
def test_other_errors_have_no_explanation(error):
    assert explain_system_error(error) is None


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({}, "a.json: size is missing"),
        ({"size": "x"}, "a.json: size is 'x': Input should be a valid integer"),
        ([], "a.json: content is []: Input should be a valid dictionary"),
    ],
)
def test_validation_error_names_file_key_and_value(content, line):
    with pytest.raises(ValidationError) as error:
        TypeAdapter(Facts).validate_python(content)
    assert explain_validation("a.json", error.value).startswith(line)


def test_unknown_name_comes_with_the_nearest_valid_ones():
    assert str(unknown("model", "plian", ["plain", "dreamer"])) == (
        "unknown model 'plian'; did you mean: plain?"
    )
    assert str(unknown("model", "plain", [])) == "unknown model 'plain'; there is none"


def test_argument_that_is_not_utf8_is_an_error():
    with pytest.raises(UserError, match="not valid UTF-8"):
        check_utf8("\udcff")
