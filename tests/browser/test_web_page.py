"""The page of `picas web` in a browser, as people see it."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest
from support.browser import PHONE, WIDE, accessibility_faults
from support.faults import Double, Reply
from support.tokens import ended_token, make_token
from support.web_page import PILOT, WebPage, page_of_new_pool
from support.workers import wait_for

from picas import Task, modifiers
from picas.views import create_report

HOSTILE = (
    b"<script>document.title='owned'</script><b>bold</b> \x1b[31mred\x1b[0m \x1b]0;title\x07 \xff\xfe\r\nat 5 %\rdone\n"
)
SHOWN = "<script>document.title='owned'</script><b>bold</b> red \\x1b]0;title\\x07 \ufffd\ufffd\nat 5 %\ndone\n"
MARKUP = "<img src=x onerror=\"document.title='owned'\">"


def fill(client):
    """Make a pool that has seen some work, with tokens that somebody hostile has written."""
    create_report(client)
    now = int(time.time())
    tokens = [Task(make_token(number, input={"name": f"star-{number}"})) for number in range(1000, 1060)]
    for number in range(100, 130):
        tokens.append(Task(ended_token(number, "done", start=now - 60 * (number - 99))))
    for number in range(200, 206):
        tokens.append(Task(ended_token(number, reason=f"exit 1: {MARKUP}", group="r12ab", start=now - 600)))
    hostile = Task(ended_token(7, reason=f"exit 1: {MARKUP}", group="r12ab", start=now - 30, input=MARKUP))
    hostile["note"] = {MARKUP: MARKUP}
    hostile["error"] = [{"time": now, "message": MARKUP, "exception": f"Traceback\n{MARKUP}"}]
    hostile.put_attachment("logs_token_7.out", HOSTILE)
    tokens += [hostile, Task({**make_token(), "_id": f"x/{MARKUP}", "input": "odd id"})]
    tokens.append(Task(modifiers.lock(make_token(300), "picas_pilot_n1_1")))
    assert all(client.save_documents(tokens))
    pilot = {"type": "pilot", "host": "n1", "slots": 4, "slots_busy": 1, "heartbeat": 60, "outcomes": {"done": 30}}
    client.save({**pilot, "_id": "picas_pilot_n1_1", "state": "running", "start": now - 900, "saved": now})
    client.save({**pilot, "_id": "picas_pilot_n2_1", "state": "running", "start": now - 900, "saved": now - 600})
    return client


@pytest.fixture
def pool(client):
    """A pool of the test's own."""
    return fill(client)


@pytest.fixture
def own_web(pool, environment):
    """A page of the test's own pool."""
    with WebPage(environment) as page:
        yield page


@pytest.fixture(scope="module")
def web(location):
    """A page of a pool like that, for tests that only read."""
    with page_of_new_pool(location, fill) as page:
        yield page


@pytest.fixture
def own_page(own_web, new_page):
    """An empty page, which is closed before the server of the test's own pool ends."""
    return new_page()


def text_in(page, selector):
    return page.locator(selector).inner_text()


def test_the_token_in_the_link_is_required_and_leaves_the_address(page, web):
    page.goto(web.base, wait_until="networkidle")
    assert text_in(page, "body").startswith("Open the link that picas web has printed")
    page.faults.clear()  # the browser says that this was refused
    page.goto(web.link)
    page.wait_for_selector(".card.done")
    assert page.url == f"{web.base}/"
    assert page.evaluate("document.cookie") == ""
    page.reload()
    page.wait_for_selector(".card.done")


def test_a_link_on_a_page_of_another_site_leads_to_the_page(page, web):
    site = f"<html lang='en'><a href='{web.link}'>pool</a></html>".encode()
    with Double(lambda request: Reply(body=site, headers={"Content-Type": "text/html"})) as other:
        page.goto(other.url.replace("127.0.0.1", "localhost"))
        page.click("a")
        page.wait_for_selector(".card.done")
    assert page.url == f"{web.base}/"


def test_the_overview_shows_the_pool_and_changes_by_itself(own_page, own_web, pool):
    own_page.goto(own_web.link)
    own_page.wait_for_selector(".card.todo .number:text-is('61')")
    assert text_in(own_page, "#connection-text") == "live"
    for text in ("r12ab", f"exit 1: {MARKUP}", "token_7", "n1", "silent since"):
        own_page.wait_for_selector(f"text={text}")
    assert "30 have succeeded, 7 have failed" in own_page.get_attribute(".plot", "aria-label")
    own_page.wait_for_selector(".plot canvas")
    own_page.click("text=Numbers")
    own_page.wait_for_selector("figure tbody tr >> nth=59")
    assert own_page.locator("figure tbody tr").count() == 60
    token = pool.get("token_1000")
    saved = time.monotonic()
    pool.save({**token.value, "lock": 1, "done": int(time.time()), "exit_code": 0})
    own_page.wait_for_selector(".card.done .number:text-is('31')")
    assert time.monotonic() - saved < 5
    assert own_page.title() != "owned"


def test_lists_are_paged_filtered_and_live(own_page, own_web, pool):
    own_page.goto(own_web.link)
    own_page.click(".card.todo")
    own_page.wait_for_selector("text=50 tokens")
    assert own_page.locator("tbody tr").count() == 50
    own_page.click("text=Next page")
    own_page.wait_for_selector("text=further down the list")
    assert own_page.locator("tbody tr").count() == 11
    own_page.wait_for_selector(f"text=x/{MARKUP}")
    own_page.go_back()
    own_page.wait_for_selector("text=Next page")
    own_page.fill("#filter-prefix", "token_101")
    own_page.keyboard.press("Enter")
    own_page.wait_for_selector("text=10 tokens")
    pool.save(make_token(10199))
    own_page.wait_for_selector("text=token_10199")
    own_page.click(".tabs >> text=error")
    own_page.wait_for_selector("text=No token matches")
    own_page.click("text=Clear")
    own_page.wait_for_selector("text=7 tokens")
    own_page.click("tbody tr:first-child td.id a")
    own_page.wait_for_selector("text=picas retry error --reason r12ab")
    own_page.fill("#filter-where", "nonsense")
    own_page.click("button:text('Filter')")
    own_page.wait_for_selector("text='nonsense' is not a condition")
    own_page.faults.clear()  # the browser says that this was refused


def test_a_token_with_hostile_content_and_its_log_stay_text(page, web):
    page.goto(web.link)
    page.goto(f"{web.base}/#/token/token_7")
    page.wait_for_selector("pre.log:visible")
    assert page.evaluate("document.querySelector('pre.log').textContent") == SHOWN
    assert page.locator("main img, main script, main b").count() == 0
    for text in ("Attempts", "exit code", f"exit 1: {MARKUP}", "logs_token_7.out", "of attempt 1"):
        page.wait_for_selector(f"text={text}")
    page.click("text=error output")
    page.wait_for_selector("text=There is no log of the error output.")
    page.click("button:text-is('output')")
    with page.expect_popup() as opened:
        page.click("text=as a file")
    assert opened.value.evaluate("document.contentType") == "text/plain"
    assert page.title().startswith("token_7")
    assert opened.value.title() != "owned"
    page.goto(f"{web.base}/#/token/{'x%2F' + MARKUP.replace('%', '%25').replace(' ', '%20')}")
    page.wait_for_selector("text=odd id")
    page.wait_for_selector("text=Why it does not run")


def test_the_log_of_a_running_program_is_live_and_the_token_ends(own_page, own_web, pool, environment, tmp_path):
    pool.save(
        make_token(
            400, priority=9, input="echo begun; while [ ! -e go ]; do sleep 0.05; done; echo '<i>end</i>'; exit 3"
        )
    )
    code = PILOT.replace(".run()", ".run(max_tasks=1)").replace(
        "heartbeat=0.2", "heartbeat=0.2, view='todo', startkey='token_400', endkey='token_400'"
    )
    with subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path) as pilot:
        wait_for(lambda: pool.get("token_400")["lock"])
        own_page.goto(own_web.link)
        own_page.goto(f"{own_web.base}/#/token/token_400")
        own_page.wait_for_selector("text=begun")
        assert text_in(own_page, ".heading .state") == "locked"
        (tmp_path / "go").touch()
        own_page.wait_for_selector("text=<i>end</i>")
        own_page.wait_for_selector(".heading .state.error")
        own_page.wait_for_selector("text=of attempt 1")
        assert pilot.wait(60) == 0


def test_it_says_that_it_is_disconnected_and_keeps_its_numbers(own_page, own_web, environment):
    own_page.goto(own_web.link)
    own_page.wait_for_selector(".card.done")
    own_web.stop()
    own_page.wait_for_selector("text=This page has lost picas web")
    assert text_in(own_page, "#connection-text") == "page disconnected"
    assert text_in(own_page, ".card.error .number") == "7"
    own_page.faults.clear()  # connections are refused
    own_page.goto("about:blank")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_nothing_hinders_people(web, new_page, scheme, width):
    page = new_page(width, color_scheme=scheme)
    page.goto(web.link)
    page.wait_for_selector("text=silent since")
    assert accessibility_faults(page) == []
    for view, text in (
        ("tokens", "50 tokens"),
        ("token/token_7", "Tracebac"),
        ("failures", "picas retry error" if width == WIDE else "r12ab"),
        ("pilots", "1 running, 1 silent"),
        ("charts", "Core-hours"),
    ):
        page.goto(f"{web.base}/#/{view}")
        page.wait_for_selector(f"text={text}")
        assert accessibility_faults(page) == [], view
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    assert page.locator(".charts figure").count() >= 6


def test_the_keyboard_reaches_everything(page, web):
    page.goto(web.link)
    page.wait_for_selector("text=silent since")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert re.search(r"state=todo$", page.evaluate("document.activeElement.href"))
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector("text=50 tokens")
    assert page.evaluate("document.activeElement.id") == "main"
    page.goto(f"{web.base}/#main")
    page.reload()
    page.wait_for_selector(".card.done")
