"""Answers that would break a template: what each is called, and how it is given."""

import keyword
from typing import NamedTuple


class Hostile(NamedTuple):
    """An answer, and whether it has to be refused."""

    name: str
    question: str
    value: object
    refused: bool = False


#: Lines of text that come through unchanged wherever any text may stand.
LINES = {
    "double quotes": 'say "hello" and ""',
    "single quotes": "it's ''quoted''",
    "backquotes": "`id` and ``more``",
    "typographic quotes": "„unten“ “up” «links» ‹x› ‘y’",
    "three double quotes": '"""',
    "three single quotes": "'''",
    "a trailing backslash": "C:\\temp\\",
    "two trailing backslashes": "\\\\server\\\\",
    "escapes": r"\n \t \x00 \u0041 \N{BULLET} \Z",
    "quote and backslash": '\\" \\\\" \\\'',
    "a placeholder": "{{ package_name }}",
    "an unknown placeholder": "{{ nobody.knows }}",
    "a Jinja statement": "{% for x in y %}{% endraw %}{% include '/etc/passwd' %}",
    "a Jinja comment": "before {# gone? #} after",
    "unclosed Jinja": "{{ {% {#",
    "closing Jinja": "}} %} #}",
    "a format": "{0} {} {x!r:>{width}} %s %(x)s %d %",
    "a workflow expression": "${{ github.token }}",
    "shell expansion": "$(touch hacked) ${HOME} $PATH `touch hacked` ; touch hacked | cat && id",
    "redirection": "> hacked < /etc/passwd 2>&1",
    "a comment": "# not a comment",
    "a heading": "## a heading",
    "the end of CDATA": "]]> <![CDATA[",
    "HTML": "<script>alert('&amp;')</script><!--",
    "a fence": "```python",
    "a table": "a | b |",
    "a link": "[x](javascript:alert(1)) ![y](z)",
    "YAML yes": "yes",
    "YAML off": "Off",
    "YAML null": "null",
    "YAML tilde": "~",
    "YAML list": "- a",
    "YAML flow list": "[a, b]",
    "YAML flow mapping": "{a: b}",
    "YAML mapping": "key: value",
    "YAML colon at the end": "value:",
    "YAML anchor": "&a *a",
    "YAML merge": "<<: *a",
    "YAML tag": "!!python/object/apply:os.system ['touch hacked']",
    "YAML block": "|",
    "YAML folded": ">-",
    "YAML document": "---",
    "YAML document end": "...",
    "YAML directive": "%YAML 1.1",
    "YAML integer": "0o17",
    "YAML octal": "0123",
    "YAML float": "1e3",
    "YAML not a number": ".nan",
    "YAML date": "2026-08-01",
    "YAML sixties": "12:30:45",
    "YAML question": "? a",
    "TOML table": "[project.scripts]",
    "TOML array": "[[tool]]",
    "TOML pair": 'x" = "y',
    "TOML end of a string": '", injected = "',
    "TOML date": "1979-05-27T07:32:00Z",
    "JSON": '{"a": [1, null]}',
    "emoji": "🎉👩‍🚀🏳️‍🌈 ok",
    "Chinese": "日本語の計数器 中文",
    "Arabic": "خدمة العداد",
    "Hebrew with Latin": "שלום Log-Cruncher עולם",
    "bidi marks": "a\u200eb\u200fc\u061cd",
    "a bidi override": "abc\u202edef\u202c",
    "an unclosed bidi override": "abc\u202edef",
    "bidi isolates": "a\u2066b\u2067c\u2069\u2069",
    "combining marks": "Z̷̢̛a̸l̵g̶o̷ e\u0301",
    "precomposed and decomposed": "é e\u0301 Å A\u030a \u212b",
    "zero width": "a\u200bb\u2060c\u00add",
    "a byte order mark": "\ufeffname",
    "a byte order mark inside": "na\ufeffme",
    "a private character": "\ue000 \U000f0000",
    "no characters": "a\ufffeb\uffffc\ufffd",
    "astral letters": "𝒜𝓃𝓃 𐍈 \U0001f1e9\U0001f1ea",
    "dotless i": "ıİ iI",
    "no-break space": "a\u00a0b\u202fc\u3000d",
    "spaces around": "  inside  and out  ",
    "a leading dash": "-leading --dash",
    "an option": "--vcs-ref=HEAD",
    "a path": "../../etc/passwd",
    "an absolute path": "/etc/passwd",
    "a URL": "https://example.org/?a=b&c=%20#d",
    "a dot": ".",
    "two dots": "..",
    "a number": "12.50",
    "zero": "0",
    "minus": "-1",
    "infinity": "inf",
    "true": "True",
    "none": "None",
    "a hundred thousand letters": "long " * 20_000 + "end",
    "a hundred thousand wide letters": "é" * 100_000,
    "a hundred thousand quotes": "\"'\\" * 33_333,
}

#: What is no line of text: refused wherever a line is asked for.
NO_LINES = {
    "a newline": "two\nlines",
    "a newline at the end": "line\n",
    "a carriage return": "two\rlines",
    "both": "two\r\nlines",
    "a tab": "a\tb",
    "NUL": "a\x00b",
    "a bell": "ding\a",
    "an escape sequence": "\x1b[31mred\x1b[0m",
    "a backspace": "abc\b\b\b",
    "delete": "a\x7fb",
    "the next line of EBCDIC": "a\x85b",
    "a line separator": "a\u2028b",
    "a paragraph separator": "a\u2029b",
    "half a surrogate pair": "a\ud83db",
    "a form feed": "a\x0cb",
    "a newline before TOML": '"\n[tool.injected]\nx = "',
    "a newline before YAML": "x\npatterns: []",
}

#: Texts for the other places, where each kind would take the same way as in a line.
SOME_LINES = [
    "double quotes",
    "three double quotes",
    "a trailing backslash",
    "a Jinja statement",
    "a workflow expression",
    "YAML null",
    "YAML tag",
    "TOML end of a string",
    "emoji",
    "Hebrew with Latin",
    "a bidi override",
    "a byte order mark",
    "no characters",
    "spaces around",
    "a hundred thousand letters",
]

PACKAGE_NAMES = [
    *("cache_tools", "locks", "counter", "cache", "arrays", "sharing", "jobs", "processes"),
    *("cli", "my_tests", "benchmark", "engine", "worker", "x", "a1", "x" * 60, "none_none"),
    *("state", "main", "demo", "app", "workers", "project", "service", "memory", "progress"),
    *("crunch_logs", "files", "errors", "chosen", "locks_and_arrays", "shared_memory", "updates"),
    *("machine", "patterns", "engines", "desk"),
]

NO_PACKAGE_NAMES = [
    *("", " ", "2fast", "42", "my-service", "my service", "My_service", "SERVICE", "mySERVICE"),
    *("_x", "x_", "a__b", "__init__", "a.b", "a/b", "a\\b", "../x", "/x", "~", ".", "..", "-x"),
    *("café", "日本", "خدمة", "🎉", "ı", "ﬁne", "x\u0301", "a\u202eb", "a\u200bb", "\ufeffx"),
    *("x\n", "\nx", "x\ty", "x\x00", "x;y", "x'", 'x"', "$(id)", "`id`", "%s", "{{ x }}"),
    *("{% x %}", "null ", "x" * 61, "x" * 100_000, "a_" * 40 + "a", "test_x", "bench_x"),
    *keyword.kwlist,
    *keyword.softkwlist,
    *("lazy", "json", "multiprocessing", "asyncore", "annotationlib", "distutils", "imp"),
    *("numpy", "typer", "rich", "pytest", "ruff", "mypy", "nox", "hatchling", "ray", "dask"),
    *("joblib", "loky", "click", "markdown_it_py", "trove_classifiers", "pip", "uv", "wheel"),
    *("apps", "uvicorn", "fastapi", "starlette", "anyio", "httpx", "uvloop", "limits"),
    "prometheus_client",
    *("tests", "benchmarks", "src", "under_test", "conftest", "docs", "git", "python", "bash"),
]

ADDRESSES = ["a@b", "o'brien+x@example.org", "a.b-c_d@xn--bcher-kva.example", "{x}@example.org"]
NO_ADDRESSES = [
    *("nobody", "a@", "@b.org", "a b@c.org", "a@b@c.org", "a..b@c.org", "<a@b.org>"),
    *("é@b.org", "a@bücher.example", "a@b.org\n", "a@b.org, c@d.org", '"a b"@c.org', "a@b..org"),
    *("a@b.org>", " a@b.org", "a@[127.0.0.1]", "\u202ea@b.org", "a" * 100_000, "a@" + "b." * 9000),
]

NO_PATTERNS = [
    *(
        "",
        "counter",
        "counter, locks",
        "{counter: locks}",
        "null",
        "~",
        "yes",
        "1",
        "[]",
        "[queue]",
    ),
    *("[Counter]", "[counter, queue]", "[[counter]]", "[{counter: 1}]", "[null]", "[counter", "]"),
    *('["counter]', "'[counter]'", "- counter", "!!python/object:os.system [counter]", "[*a]"),
    *("[counter]\x00", "[counter] # x", "[" * 1000, "[" + "counter, " * 1000 + "|]", "{{ x }}"),
    *({"counter": True}, None, 7, True, [1], [None], [["counter"]], ["Counter"]),
]

PATTERNS = [
    *("[counter, counter]", "[locks, counter]", "[\"counter\", 'cache']", "[ counter ,]"),
    *(["counter", "counter"], ("locks", "arrays")),
]

ENGINES = ["[ray, ray]", "[joblib,dask]", "[ 'ray' ]", "[]", ["dask"], ()]

NO_ENGINES = [
    *("", "ray", "dask, ray", "none", "null", "yes", "[processes]", "[Ray]", "[ray", "{ray: 1}"),
    *("[ray]\x00", "[[ray]]", "[{ray: 1}]", "{{ x }}", {"ray": True}, None, 7, [None], ["spark"]),
]


def named(value: object) -> str:
    """Return what to call an answer that has no name."""
    text = repr(value)
    return text if len(text) < 40 else f"{text[:20]}…{len(text)}"


def hostile_answers() -> list[Hostile]:
    """List all of them."""
    found = [Hostile(name, "project_name", text) for name, text in LINES.items()]
    for question in ("project_description", "author_name"):
        found += [Hostile(name, question, LINES[name]) for name in SOME_LINES]
    for question in ("project_name", "project_description", "author_name"):
        found += [Hostile(name, question, text, True) for name, text in NO_LINES.items()]
    found += [
        Hostile(f"blank {text!r}", "project_name", text, True) for text in ("", " ", "\u3000")
    ]
    found += [Hostile("empty", name, "") for name in ("project_description", "author_name")]
    found += [Hostile("blank", name, "  ") for name in ("project_description", "author_name")]
    for question, good, bad in (
        ("package_name", PACKAGE_NAMES, NO_PACKAGE_NAMES),
        ("author_email", ADDRESSES, NO_ADDRESSES),
        ("patterns", PATTERNS, NO_PATTERNS),
        ("engines", ENGINES, NO_ENGINES),
        ("python_min", ["3.11"], ["3.10", "3.110", "3", "", "latest", "3.11 ", "4.0", "{{ x }}"]),
        ("ci", ["none"], ["", "GitHub", "jenkins", "null", "[github]", "github\n", "{{ x }}"]),
        ("docker", ["YES", "off", "1", True], ["", "maybe", "2", "[yes]", "{{ x }}", "\x00"]),
        # Worked out, and never asked: nobody can put theirs in its place.
        ("pattern_table", [], ["{}", "x", "{counter: {}}"]),
        ("engine_table", [], ["{}", "x", "{spark: {}}"]),
        ("taken_names", [], ["", "x"]),
        ("not_a_line", [], ["", "x"]),
        ("all_pythons", [], ['["2.7"]', "[]"]),
        ("pythons", [], ['["2.7"]', "[]"]),
    ):
        found += [Hostile(named(value), question, value) for value in good]
        found += [Hostile(named(value), question, value, True) for value in bad]
    return found
