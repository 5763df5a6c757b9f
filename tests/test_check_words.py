"""The check of words finds what it looks for."""

from __future__ import annotations

from tests.check_words import banned, files, lines_of, questions


def test_turn_across_lines_is_found_and_part_of_a_word_is_not():
    assert lines_of("a\n# it Comes to\n# nothing here", "comes to nothing") == [2]
    assert not lines_of("thereof lately", "of late")


def test_docstring_that_begins_with_a_question_word_is_found():
    source = (
        '"""Whatever."""\nclass A:\n    """Who."""\n    def f(self):\n        """What\'s this."""\n'
        'A = 1\n"""Those of one."""'
    )
    assert questions(source) == [(3, "Who."), (5, "What's this."), (7, "Those of one.")]


def test_lists_of_the_glossary_and_all_rooms_are_read():
    turns = banned()
    assert turns["of late"] and turns["set aside"] and "turn" not in turns and len(turns) >= 18
    names = {path.name for path in files()}
    assert {"engine.py", "step.py", "attention.py", "sse.py", "api.md", "README.md"} <= names
    assert "glossary.md" not in names
