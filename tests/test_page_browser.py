"""The chat page in a browser, before a real server: what people do, and what it must never do."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from prelude.conf.schema import AuthConfig, ReasoningParserName, ToolParserName
from prelude.types.wire import Progress, Ready
from tests.browser import ENTER, ESCAPE, RIGHT, SHIFT, UP, Browser, needs_browser, running_driver
from tests.fakes import scripted_client, some_info
from tests.key_samples import entry, guarded
from tests.server_harness import Engine, Gate, Harness, listening, says, serving, test_config
from tests.text_samples import byte_level
from tests.tool_samples import NOW, NOW_CALL, THOUGHT, tool_tokenizer

pytestmark = needs_browser

IDLE = "document.querySelector('#send').innerText === 'Send'"
DONE = "document.querySelector('.turn:last-child .answer[data-state=done]')"
READY = "document.querySelector('#model').innerText"


@pytest.fixture(scope="module")
def window() -> Iterator[tuple[str, str]]:
    with running_driver() as found:
        yield found


@pytest.fixture
async def page(window: tuple[str, str]) -> AsyncIterator[Browser]:
    """Every server has a port of its own, and so every test an empty storage."""
    browser = Browser(*window)
    await browser.look(1280, 800, prefers_color_scheme="light", prefers_reduced_motion="reduce")
    yield browser
    await browser.open("about:blank")
    await browser.errors()
    await browser.close()


async def opened(page: Browser, server: Harness) -> None:
    await page.open(server.url)
    await page.until(READY)


async def ask(page: Browser, text: str) -> None:
    count = await page.js("document.querySelectorAll('.turn').length")
    await page.write("#prompt", text + ENTER)
    await page.until(f"document.querySelectorAll('.turn').length > {count} && {IDLE}")


def saying(text: str, **engine: object) -> Engine:
    return Engine(model=says(byte_level(), text), max_len=512, **engine)  # type: ignore[arg-type]


async def set_field(page: Browser, name: str, value: str) -> None:
    box = f"document.getElementById('set-{name}')"
    await page.js(f"{box}.value = {value!r}, {box}.dispatchEvent(new Event('input'))")


async def press_button(page: Browser, label: str) -> None:
    found = f"[...document.querySelectorAll('button')].find((b) => b.innerText === '{label}')"
    await page.js(f"{found}.click()")


async def test_a_question_is_answered_with_its_numbers(page: Browser) -> None:
    async with serving(saying("Hello **there**.")) as server:
        await opened(page, server)
        assert await page.text("#model") == "test-model"
        await ask(page, "Hi")
        await page.until(DONE)
        assert await page.text(".bubble") == "Hi"
        assert await page.text(".text") == "Hello there."
        assert await page.text(".text strong") == "there"
        facts = await page.text(".facts")
        assert "first token" in facts
        assert re.search(r"\b\d+ tokens\b", facts)
        assert facts.startswith("fast")
        assert await page.text("#said") == "Answer: Hello **there**."
        assert await page.errors() == []


async def test_an_answer_is_stopped_in_its_middle_and_the_engine_with_it(page: Browser) -> None:
    gate = Gate()
    engine = Engine(model=says(byte_level(), "abc ", forever=True), gate=gate, max_len=10_000)
    async with serving(engine) as server:
        await opened(page, server)
        await page.write("#prompt", "Count" + ENTER)
        gate.allow(7)
        await page.until("document.querySelector('.text').innerText.startsWith('abc')")
        assert await page.text("#send") == "Stop"
        assert await page.js("document.querySelector('.answer').ariaBusy") == "true"
        await page.press(ESCAPE)
        await page.until(IDLE)
        gate.open()
        await server.until(lambda: server.client.stats.num_running == 0)
        assert "stopped" in await page.text(".facts")
        assert await page.js("document.activeElement.id") == "prompt"
        await page.open(server.url)
        await page.until("document.querySelector('.text').innerText.startsWith('abc')")


async def test_the_conversation_stays_and_can_be_put_aside(page: Browser) -> None:
    async with serving(saying("One.")) as server:
        await opened(page, server)
        await ask(page, "First")
        await page.open(server.url)
        await page.until(READY)
        assert await page.text(".bubble") == "First"
        await ask(page, "Second")
        assert await page.js("JSON.parse(localStorage['prelude.talk']).turns.length") == 2
        await page.click("#fresh")
        assert await page.js("document.querySelectorAll('.turn').length") == 0
        await page.click("#back")
        assert await page.js("document.querySelectorAll('.turn').length") == 2


async def test_questions_are_rewritten_and_answers_given_again(page: Browser) -> None:
    async with serving(saying("Yes.")) as server:
        await opened(page, server)
        await ask(page, "One")
        await ask(page, "Two")
        await page.press(UP)
        assert await page.js("document.activeElement.value") == "Two"
        await page.press(ESCAPE)
        await page.click(".turn:first-child [data-edit]")
        await page.write(".rewrite textarea", " more" + ENTER)
        await page.until(f"document.querySelectorAll('.turn').length === 1 && {IDLE}")
        assert await page.text(".bubble") == "One more"
        await press_button(page, "Again")
        await page.until(f"{DONE} && {IDLE}")
        assert await page.js("document.querySelectorAll('.answer').length") == 1


async def test_keys(page: Browser) -> None:
    async with serving(saying("Yes.")) as server:
        await opened(page, server)
        await page.write("#prompt", "a")
        await page.press(SHIFT, ENTER)
        await page.write("#prompt", "b")
        assert await page.js("document.querySelector('#prompt').value") == "a\nb"
        await page.press(ENTER)
        await page.until(DONE)
        assert await page.js("document.querySelector('.bubble').textContent") == "a\nb"
        await page.js("document.activeElement.blur()")
        await page.press("/")
        assert await page.js("document.activeElement.id") == "prompt"
        await page.press("/")
        assert await page.js("document.querySelector('#prompt').value") == "/"


async def test_nothing_that_a_model_writes_becomes_markup(page: Browser) -> None:
    evil = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) `<b>`"
    evil += "\n\n```html\n<script>1</script>\n```"
    async with serving(saying(evil)) as server:
        await opened(page, server)
        await ask(page, "<i>Hi</i>")
        await page.until(DONE)
        assert await page.text(".bubble") == "<i>Hi</i>"
        text = await page.text(".text")
        assert "<img src=x onerror=alert(1)> [x](javascript:alert(1)) <b>" in text
        assert await page.text(".code pre") == "<script>1</script>"
        made = "document.querySelectorAll('#turns :is(img, script, b, i, a)').length"
        assert await page.js(made) == 0
        assert await page.errors() == []


async def test_tokens_show_what_else_they_could_have_been(page: Browser) -> None:
    async with serving(saying("Hey")) as server:
        await opened(page, server)
        await page.js("document.querySelector('#set-logprobs').click()")
        await ask(page, "Hi")
        await page.until(DONE)
        assert await page.js("document.querySelector('.text').hidden")
        tokens = "[...document.querySelectorAll('.tokens .token')].map((token) => token.innerText)"
        assert (await page.js(tokens))[:2] == ["He", "y"]
        await page.js("document.querySelector('.token').focus()")
        await page.press(RIGHT)
        assert await page.js("document.activeElement.innerText") == "y"
        assert "Token 2 of" in await page.text("#tip")
        assert re.fullmatch(r"y\s+[\d.]+ %\s*", await page.text("#tip .chosen"))
        assert await page.js("document.activeElement.getAttribute('aria-describedby')") == "tip"
        await press_button(page, "Tokens")
        assert await page.text(".text") == "Hey"


async def test_thoughts_are_apart_and_calls_can_be_answered(page: Browser) -> None:
    tokenizer = tool_tokenizer()
    calls, tells = (says(tokenizer, text) for text in (THOUGHT + NOW_CALL, "It is noon."))

    def model(context: list[int]) -> int:
        return tells(context) if "noon" in tokenizer.decode(context) else calls(context)

    config = test_config(
        tool_parser=ToolParserName.hermes, reasoning_parser=ReasoningParserName.qwen3
    )
    async with serving(Engine(model, max_len=2048), tokenizer=tokenizer, config=config) as server:
        await opened(page, server)
        await set_field(page, "tools", json.dumps([NOW]))
        await ask(page, "What time is it?")
        await page.until(DONE)
        assert await page.text(".thoughts summary") == "Thoughts"
        assert await page.js("document.querySelector('.thought').textContent") == "Hm, Paris."
        assert await page.text(".call figcaption") == "Calls now"
        assert await page.text(".call code") == "{}"
        await page.write(".call textarea", "noon")
        await press_button(page, "Send the results")
        await page.until(f"document.querySelectorAll('.turn').length === 2 && {DONE}")
        assert await page.text(".turn:last-child .question code") == "noon"
        assert await page.text(".turn:last-child .text") == "It is noon."


async def test_a_key_is_asked_for_and_kept_for_the_tab(page: Browser, tmp_path: Path) -> None:
    config = test_config(auth=AuthConfig(public_page=True))
    async with guarded(tmp_path, entry("sk-1"), config=config, engine=saying("In.")) as server:
        await page.open(server.url)
        await page.until("document.querySelector('#state').dataset.kind === 'locked'")
        assert await page.text("#state-text") == "This server wants an API key."
        await page.write("#prompt", "Hi" + ENTER)
        await page.until("document.querySelector('.problem')")
        assert "The server wants an API key." in await page.text(".problem")
        await page.click("#unlock")
        assert await page.js("document.activeElement.id") == "key"
        await page.write("#key", "sk-wrong" + ENTER)
        await page.until("document.querySelector('#state-text').innerText.includes('not open')")
        await page.js("document.querySelector('#key').value = ''")
        await page.write("#key", "sk-1" + ENTER)
        await page.until(READY)
        await press_button(page, "Again")
        await page.until(DONE)
        assert await page.text(".text") == "In."
        assert await page.js("Object.values(localStorage).some((v) => v.includes('sk-1'))") is False
        await press_button(page, "Code")
        shell = await page.text("#code-text")
        assert "$PRELUDE_API_KEY" in shell
        assert "sk-1" not in shell


async def test_a_key_that_the_browser_asks_for_serves_the_page_too(
    page: Browser, tmp_path: Path
) -> None:
    async with guarded(tmp_path, entry("sk-1"), engine=saying("In.")) as server:
        await page.open(server.url.replace("//", "//me:sk-1@"))
        await opened(page, server)
        await ask(page, "Hi")
        await page.until(DONE)
        assert await page.text(".text") == "In."


async def test_what_is_asked_for_as_json_is_shown_as_it_is(page: Browser) -> None:
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": '{"a": "*b*"}'}}]})
    stream = json.dumps(f"data: {chunk}\n\ndata: [DONE]\n\n")
    async with serving() as server:
        await opened(page, server)
        await page.js(f"window.fetch = async () => new Response({stream})")
        await set_field(page, "extra", '{"response_format": {"type": "json_object"}}')
        await ask(page, "Hi")
        await page.until(DONE)
        assert await page.text(".text code") == '{"a": "*b*"}'


async def test_two_settings_are_asked_at_once(page: Browser) -> None:
    gate = Gate()
    async with serving(saying("Same.", gate=gate)) as server:
        await opened(page, server)
        await page.click("#compare")
        await set_field(page, "seed", "7")
        await page.write("#prompt", "Hi" + ENTER)
        await server.until(lambda: len(server.services.lifecycle._open) == 2)
        gate.open()
        await page.until("document.querySelectorAll('.answer[data-state=done]').length === 2")
        lanes = "[...document.querySelectorAll('.lane')].map((lane) => lane.innerText)"
        assert await page.js(lanes) == ["A: all left to the server", "B: seed 7"]
        boxes = (
            "[...document.querySelectorAll('.answer')].map((a) => a.getBoundingClientRect().top)"
        )
        assert len(set(await page.js(boxes))) == 1
        await page.look(360, 740)
        assert len(set(await page.js(boxes))) == 2
        await page.js("document.querySelector('#compare').click()")
        assert await page.js("document.querySelectorAll('.answer').length") == 1


async def test_a_wrong_setting_is_named_and_shown(page: Browser) -> None:
    async with serving() as server:
        await opened(page, server)
        await set_field(page, "presence_penalty", "9")
        await ask(page, "Hi")
        problem = await page.text(".problem")
        assert "A setting is not right." in problem
        assert "enalty" in problem
        await page.click(".problem button")
        assert await page.js("document.activeElement.id") == "set-presence_penalty"
        await set_field(page, "presence_penalty", "")
        await press_button(page, "Again")
        await page.until(DONE)


REFUSING = """
window.real = window.fetch, window.fetch = async () => new Response(
  JSON.stringify({error: {message: "the queue is full", code: "rate_limit_exceeded"}}),
  {status: 429, headers: {"retry-after": "1", "retry-after-ms": "300"}})
"""


async def test_a_refusal_counts_down_and_is_tried_again(page: Browser) -> None:
    async with serving(saying("Now.")) as server:
        await opened(page, server)
        await page.js(REFUSING)
        await ask(page, "Hi")
        assert "too much to do" in await page.text(".problem")
        assert "The queue is full." in await page.text(".problem")
        assert await page.js("document.querySelector('.problem button').disabled")
        assert await page.text(".problem button") == "Try again in 1 s"
        await page.js("window.fetch = window.real")
        await page.until("!document.querySelector('.problem button').disabled")
        await page.click(".problem button")
        await page.until(DONE)
        assert await page.text(".text") == "Now."


def cut(server: Harness) -> None:
    """Every connection, without a word."""
    for connection in list(server.server.server_state.connections):
        connection.transport.abort()


async def begun(page: Browser, server: Harness, gate: Gate) -> None:
    """A question whose answer has begun, and does not go on."""
    await opened(page, server)
    await page.write("#prompt", "Hi" + ENTER)
    gate.allow(7)
    await page.until(
        "document.querySelector('.turn:last-child .text')?.innerText.startsWith('One')"
    )


async def test_a_connection_that_breaks_is_taken_up_where_it_was(page: Browser) -> None:
    gate, text = Gate(), "One two three four five six."
    async with serving(saying(text, gate=gate)) as server:
        await begun(page, server, gate)
        await page.js("window.real = window.fetch, window.fetch = () => Promise.reject(new Error)")
        cut(server)
        await page.until("document.querySelector('.waiting')?.innerText.includes('Coming back')")
        assert await page.js("document.querySelector('.answer').ariaBusy") == "true"
        gate.open()
        await page.js("window.fetch = window.real")
        await page.until(DONE)
        assert await page.text(".text") == text
        assert await page.js("document.querySelector('.waiting, .problem')") is None
        assert server.core is not None
        assert server.core.stats().prompt_tokens < 100, "it was asked once"


async def test_a_break_that_cannot_be_mended_says_so(page: Browser) -> None:
    gate = Gate()
    async with serving(saying("One two three four five six.", gate=gate)) as server:
        await begun(page, server, gate)
        for kept in list(server.services.keeper._streams.values()):
            server.services.keeper.forget(kept)
        cut(server)
        await page.until("document.querySelector('.problem')")
        problem = await page.text(".problem")
        assert "The connection broke." in problem
        assert "the rest is not kept any more" in problem
        assert (await page.text(".text")).startswith("One")


async def test_what_is_stopped_or_left_is_not_kept(page: Browser) -> None:
    gate = Gate()
    async with serving(saying("One two three four five six.", gate=gate)) as server:
        for how in ("stop", "leave"):
            await begun(page, server, gate)
            assert len(server.services.keeper) == 1
            if how == "stop":
                await page.press(ESCAPE)
            else:
                await page.open("about:blank")
            await server.until(lambda: not len(server.services.keeper))
            await server.until(lambda: server.services.lifecycle.num_open == 0)
            gate.allow(30)


async def test_a_server_that_is_gone_is_said_in_words(page: Browser) -> None:
    async with serving() as server:
        await opened(page, server)
        await page.js("window.fetch = () => Promise.reject(new TypeError('failed'))")
        await ask(page, "Hi")
        assert "The server does not answer." in await page.text(".problem")
        await page.until("document.querySelector('#state').dataset.kind === 'gone'")
        assert await page.text("#state-text") == "The server does not answer."


async def test_a_question_waits_for_the_engine(page: Browser) -> None:
    client, transport = scripted_client()
    try:
        async with listening(client, byte_level(), test_config()) as server:
            transport.say(Progress("loading weights", 0.25))
            await server.until(lambda: client.progress.fraction == 0.25)
            await page.open(server.url)
            await page.until("document.querySelector('#state-text').innerText")
            assert await page.text("#state-text") == "The engine is starting: loading weights, 25 %"
            assert await page.js("document.querySelector('#progress').value") == 0.25
            await page.write("#prompt", "Hi" + ENTER)
            await page.until("document.querySelector('.waiting').innerText")
            transport.say(Ready(some_info()))
            await transport.submitted(1)
            assert await page.js("document.querySelector('#state').hidden")
            await page.press(ESCAPE)
            await page.until(IDLE)
    finally:
        await client.close()


async def test_the_request_can_be_taken_along(page: Browser) -> None:
    async with serving(saying("Yes.")) as server:
        await opened(page, server)
        await set_field(page, "top_k", "3")
        await ask(page, "Hi")
        await press_button(page, "Code")
        shell = await page.text("#code-text")
        assert f"curl -N {server.url}/v1/chat/completions" in shell
        assert '"top_k": 3' in shell
        await page.press(RIGHT)
        assert 'extra_body={"top_k": 3}' in await page.text("#code-text")
        await page.press(ESCAPE)
        assert not await page.js("document.querySelector('#code').open")


async def test_nothing_is_wider_than_the_window(page: Browser) -> None:
    long = "word" * 60 + "\n\n```\n" + "code " * 60 + "\n```\n\n| a | b |\n|---|---|\n| x | y |"
    async with serving(saying(long)) as server:
        await opened(page, server)
        await page.js(f"document.querySelector('#prompt').value = {'https://' + 'a' * 200!r}")
        await ask(page, "")
        open_panel = "document.querySelector('#panel').hidden = {}"
        wide = "['html', '#log', '#panel-body'].map((name) => document.querySelector(name))"
        wide += ".map((element) => element.scrollWidth - element.clientWidth)"
        for width in (360, 768, 1280):
            await page.look(width, 740)
            for is_hidden in ("true", "false"):
                await page.js(open_panel.format(is_hidden))
                assert await page.js(wide) == [0, 0, 0], (width, is_hidden)


async def test_light_and_dark(page: Browser) -> None:
    async with serving() as server:
        await opened(page, server)
        paper = "getComputedStyle(document.body).backgroundColor"
        light = await page.js(paper)
        await page.look(1280, 800, prefers_color_scheme="dark")
        await page.until(f"{paper} !== '{light}'")
        box = "document.querySelector('#theme')"
        await page.js(f"{box}.value = 'light', {box}.dispatchEvent(new Event('change'))")
        assert await page.js(paper) == light
        await page.open(server.url + "/live")
        assert await page.js(paper) == light
        assert await page.errors() == []
