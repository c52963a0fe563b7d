"""Commands that are printed can be pasted, whatever a user has named things."""

import os
import subprocess

import pytest

from throughtime.shell import command_line, shell_word


@pytest.mark.parametrize(
    "name", ["plain", "two words", "it's [bold]x", "a\x1b[31m'\\b", "\udcff.csv", "line\nbreak", "数据"]
)
def test_a_printed_command_names_the_same_file_again(name):
    printed = command_line("printf", "%s", name)
    assert printed.isprintable()
    assert subprocess.run(["bash", "-c", printed], capture_output=True, check=True).stdout == os.fsencode(name)


def test_a_plain_word_is_quoted_as_ever():
    assert (shell_word("runs/a"), shell_word("a b")) == ("runs/a", "'a b'")
