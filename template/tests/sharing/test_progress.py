"""Progress: shown on a terminal, and never in a pipe."""

import importlib
import io
import sys

import pytest
from under_test import cli

progress = importlib.import_module(f"{cli.PACKAGE}.progress")


def test_nothing_is_shown_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track(iter("abc"), "letters", live=lambda: "live")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_shown_on_a_terminal_that_cannot_redraw(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "dumb")
    assert list(progress.track(iter("abc"), "letters")) == ["a", "b", "c"]
    assert terminal.getvalue() == ""


def test_a_bar_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(progress.track(iter("abc"), "letters", 3, lambda: "[live]")) == ["a", "b", "c"]
    assert "letters" in terminal.getvalue()
    assert "of 3" in terminal.getvalue()
    assert "[live]" in terminal.getvalue()
