"""Chat messages: what is a list of messages, what a template may do."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_settings import examples
from small_tokenizers import CHAT_TEMPLATE, small_meta

from conch.errors import InvalidArgumentError, RepositoryError
from conch.text.chat_template import ROLES, ChatTemplate, Message, parse_messages

META = small_meta(10, bos_token="<s>")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "messages must be a JSON list of {role, content}: Expecting value"),
        ("[{]", "messages must be a JSON list of {role, content}: Expecting property name"),
        ("9" * 5000, "messages must be a JSON list of {role, content}: Exceeds the limit"),
        ("{}", "messages must be a JSON list with at least one message, got {}"),
        ("[]", "messages must be a JSON list with at least one message, got []"),
        ("null", "messages must be a JSON list with at least one message, got null"),
        ('["hi"]', 'messages[0] must be an object with role and content, got "hi"'),
        ('[{"role": "user"}]', "messages[0].content must be a string, got null"),
        ('[{"role": "user", "content": 7}]', "messages[0].content must be a string, got 7"),
        ('[{"role": "user", "content": [{"type": "text"}]}]', "messages[0].content must be a string, got [{"),
        ('[{"content": "x"}]', "messages[0].role must be a string, got null"),
        (
            '[{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}]',
            'messages[1].role must be one of system, user, assistant, got "tool"',
        ),
        (
            '[{"role": "user", "content": "x", "name": "y"}]',
            'messages[0] must have the keys role and content only, got "name"',
        ),
        (
            '[{"role": "user", "content": "\\ud83d"}]',
            "messages[0].content must be valid Unicode, got a lone surrogate",
        ),
        ('[{"role": "\\udc00", "content": "x"}]', "messages[0].role must be valid Unicode, got a lone surrogate"),
        ('[{"role": "' + "u" * 99 + '", "content": ""}]', 'got "' + "u" * 56 + "..."),
    ],
)
def test_what_is_no_list_of_messages_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_messages(text)
    assert message in str(caught.value)


def test_nesting_of_any_depth_is_refused() -> None:
    for depth in (*range(100, 1200, 3), 10_000, 1_000_000):
        for text in ("[" * depth + "]" * depth, '[{"role": ' + '{"a": ' * depth + "1" + "}" * depth + "}]"):
            with pytest.raises(InvalidArgumentError, match=r"^messages"):
                parse_messages(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(ROLES),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(("role", "content")) | st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@examples(200)
@given(st.text(max_size=40) | JSON.map(json.dumps) | st.lists(JSON, min_size=1, max_size=2).map(json.dumps))
def test_any_text_is_messages_or_refused(text: str) -> None:
    try:
        messages = parse_messages(text)
    except InvalidArgumentError:
        return
    assert [{"role": m.role, "content": m.content} for m in messages] == json.loads(text)


@examples(100)
@given(st.lists(st.builds(Message, st.sampled_from(ROLES[1:]), st.text(max_size=20)), min_size=1, max_size=4))
def test_messages_are_rendered_as_they_are(messages: list[Message]) -> None:
    text = "".join(f"<|{m.role}|>{m.content}<|end|>" for m in messages) + "<|assistant|>"
    assert ChatTemplate(CHAT_TEMPLATE, META).render(messages) == text


def test_a_template_gets_its_tokens_and_the_usual_helpers() -> None:
    source = (
        "  {% if true %}\n{{ bos_token }}{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{{ m | tojson }}{% endfor %}{{ strftime_now('%Y') | length }}{{ eos_token }}\n  {% endif %}\n"
    )
    messages = [Message("user", "<ü>"), Message("user", "2")]
    rendered = ChatTemplate(source, META).render(messages)
    assert rendered == '<s>{"role": "user", "content": "<ü>"}4<|end|>\n'


def test_a_template_may_refuse_messages() -> None:
    template = ChatTemplate(CHAT_TEMPLATE, META)
    with pytest.raises(InvalidArgumentError) as caught:
        template.render([Message("user", "x"), Message("system", "y")])
    assert str(caught.value) == "messages do not fit the model's chat template: system must come first"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{% for i in range(1000000) %}{% endfor %}",
        "{{ messages[0].nothing.at_all }}",
        "{{ 1 + 'a' }}",
    ],
)
def test_a_template_that_reaches_out_or_fails_fails_the_request_alone(source: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^messages do not fit the model's chat template: "):
        ChatTemplate(source, META).render([Message("user", "x")])


def test_a_template_sees_nothing_that_begins_with_an_underscore() -> None:
    source = "{{ ''.__class__ }}{{ raise_exception.__globals__ }}{{ strftime_now.__code__ }}{{ messages.__len__ }}"
    assert ChatTemplate(source, META).render([Message("user", "x")]) == ""


def test_a_template_that_does_not_compile_fails_the_load() -> None:
    with pytest.raises(RepositoryError, match=r"^chat template does not compile: "):
        ChatTemplate("{% for %}", META)
