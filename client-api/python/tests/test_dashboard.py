# SPDX-License-Identifier: AGPL-3.0-or-later
"""The gateway's page in a real browser, with a machine that trains.

Needs Playwright (pip install playwright) and a browser: chromium of the PATH, the one that REMORA_BROWSER names, or
Playwright's own (playwright install chromium). REMORA_SCREENSHOTS names a folder for pictures of the page.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import await_that

import remora
from remora import _gateway
from remora._settings import Settings

pytestmark = [pytest.mark.gateway, pytest.mark.full]
playwright = pytest.importorskip(
    "playwright.sync_api", reason="no Playwright: pip install playwright"
)
expect = playwright.expect

ACTIONS = "a-secret-for-those-who-may-act"
LIMIT = 60_000
"""The time limit of each wait for the page, in milliseconds."""
expect.set_options(timeout=LIMIT)


@pytest.fixture(scope="module")
def gateway() -> Iterator[_gateway.GatewayProcess]:
    with started_gateway() as process:
        yield process


@contextlib.contextmanager
def started_gateway(settings: str = "") -> Iterator[_gateway.GatewayProcess]:
    """Starts a gateway in which a reader may act."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "REMORA_GATEWAY_CONFIG",
            f"remora.gateway.dashboard.actions-token = {ACTIONS}\n{settings}",
        )
        process = _gateway.GatewayProcess(_gateway.class_path(), Settings.from_environment())
    try:
        yield process
    finally:
        process.stop()


def connect(
    gateway: _gateway.GatewayProcess, name: str, provider: str = "mock"
) -> remora.RemoteMachine:
    return remora.RemoteMachine.connect(
        gateway.address, token=gateway.token, provider=provider, name=name
    )


@contextlib.contextmanager
def training(machine: remora.RemoteMachine) -> Iterator[None]:
    """Trains until the block ends."""
    device = machine.device()
    model = torch.nn.Sequential(
        torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs, targets = torch.randn(64, 32).to(device), torch.randn(64, 4).to(device)
    ends = threading.Event()

    def train() -> None:
        step = 0
        while not ends.wait(0.01):
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % 10 == 0:
                loss.item()

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join(60)


@pytest.fixture(scope="module")
def trainer(gateway: _gateway.GatewayProcess) -> Iterator[remora.RemoteMachine]:
    with connect(gateway, "trainer") as machine, training(machine):
        yield machine


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = (
        os.environ.get("REMORA_BROWSER")
        or shutil.which("chromium")
        or shutil.which("google-chrome")
    )
    with playwright.sync_playwright() as started:
        try:
            launched = started.chromium.launch(
                executable_path=program,
                # Chromium's sandbox does not work for root.
                args=["--no-sandbox"] if os.geteuid() == 0 else [],
            )
        except playwright.Error as e:
            if program is None and "Executable doesn't exist" in str(e):
                pytest.skip(
                    "no browser: install chromium, set REMORA_BROWSER, or playwright install chromium"
                )
            raise
        yield launched
        launched.close()


@pytest.fixture
def problems() -> Iterator[list[str]]:
    """What a page must not do: errors in its console, and requests to elsewhere."""
    found: list[str] = []
    yield found
    assert found == []


@pytest.fixture
def open_page(browser: Any, gateway: _gateway.GatewayProcess, problems: list[str]) -> Iterator[Any]:
    """Opens the page in a browser that nobody has used, and signs in with this secret."""
    contexts = []

    def opened(
        secret: str | None = None,
        of: _gateway.GatewayProcess = gateway,
        scheme: str = "http",
        **options: Any,
    ) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(LIMIT)
        page = context.new_page()
        root = f"{scheme}://{of.address}/"
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda said: problems.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on(
            "request",
            lambda request: None if request.url.startswith(root) else problems.append(request.url),
        )
        page.goto(f"{root}dashboard/")
        page.get_by_label("Token").fill(of.token if secret is None else secret)
        page.keyboard.press("Enter")
        page.wait_for_url("**/dashboard/")
        expect(page.locator("#connection")).to_have_text("live")
        return page

    yield opened
    for context in contexts:
        context.close()


def wait_until(page: Any, condition: str) -> None:
    """Waits for a condition in JavaScript. The page's policy keeps Playwright's own wait_for_function out."""
    end = time.monotonic() + LIMIT / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"{condition} did not become true"
        page.wait_for_timeout(100)


def picture(page: Any, name: str) -> None:
    if folder := os.environ.get("REMORA_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def row(page: Any, name: str) -> Any:
    return page.locator(f'#machine-table tr[data-key="{name}"]')


def test_shows_a_machine_that_trains_and_plots_that_move(open_page, trainer):
    page = open_page(viewport={"width": 1280, "height": 900})
    line = row(page, "trainer")
    expect(line).to_contain_text("ready")
    wait_until(
        page, "parseFloat(document.querySelector('[data-label=\"Operations/s\"]').textContent) > 0"
    )
    plot = page.locator("#plots .plot").first
    expect(plot).to_have_attribute("aria-label", re.compile("Operations a second. executed:"))
    before = plot.screenshot()
    points = page.evaluate("state.times.length")
    wait_until(page, f"state.times.length > {points + 2}")
    assert plot.screenshot() != before
    expect(page.locator("#facts")).to_contain_text("mock")
    expect(page.locator("#figures")).to_contain_text("node's process")
    memory = page.locator("#plots .plot[aria-label^='Memory of nodes. processes: ']")
    expect(memory).to_be_visible()
    expect(page.locator("#log")).to_contain_text("READY")
    assert page.get_by_role("button", name="Stop").count() == 0  # this reader may not act
    points = page.evaluate("state.times.length")
    picture(page, "light")

    page.reload()  # the gateway has kept the plots' past

    wait_until(page, f"state.times.length >= {points}")
    expect(page.locator("#log")).to_contain_text("READY")


def test_fits_a_phone(open_page, trainer):
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    expect(row(page, "trainer")).to_contain_text("ready")
    page.wait_for_selector("#plots canvas")
    assert page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    operations = page.locator("#machine-table [data-label='Operations/s']").first
    assert operations.bounding_box()["x"] < 60  # a card's line, not a column
    picture(page, "phone")


def test_is_dark_where_the_reader_wants_it(open_page, trainer):
    dark = open_page(color_scheme="dark")
    expect(row(dark, "trainer")).to_be_visible()
    ground = (
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(part => part < 60)"
    )
    assert dark.evaluate(ground)
    picture(dark, "dark")
    dark.emulate_media(color_scheme="light")
    assert not dark.evaluate(ground)


def test_everything_can_be_reached_by_keyboard(open_page, trainer):
    page = open_page(secret=ACTIONS)
    expect(row(page, "trainer")).to_be_visible()
    page.wait_for_selector("#plots canvas")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "[document.activeElement.id || document.activeElement.className || document.activeElement.textContent,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        if name in reached and name != "plot":
            break
        assert outline != "none", f"{name} has the focus, and nothing shows it"
        reached.append(name)
        if name == "log":
            break
        if name == "plot" and reached.count("plot") == 1:
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("ArrowLeft")
            expect(page.locator("#plots .now").first).to_contain_text(":")  # a time
            page.keyboard.press("Escape")
    assert [name for name in dict.fromkeys(reached) if name not in ("", "Sign out")] == [
        "skip",
        "trainer",
        "Pause",
        "danger",
        "scope",
        "plot",
        "log",
    ]


def test_a_machine_that_fails_says_why_and_its_words_are_only_text(open_page, gateway):
    hostile = "<img src=x onerror=document.body.remove()>"
    page = open_page()
    machine = connect(gateway, "broken", provider=hostile)
    with pytest.raises(remora.RemoraException, match="unknown provider"):
        machine.device()

    line = row(page, "broken")
    expect(line).to_contain_text("failed")
    expect(line).to_contain_text(f'unknown provider "{hostile}"')
    expect(page.locator("#errors")).to_contain_text(hostile)
    assert page.locator("main img").count() == 0
    picture(page, "failed")


def test_stops_a_machine_after_a_question_that_names_it(open_page, gateway):
    with connect(gateway, "stopped") as machine:
        one = torch.ones(2).to(machine.device())
        page = open_page(secret=ACTIONS)
        line = row(page, "stopped")
        line.get_by_role("button", name="Stop stopped").click()
        question = page.get_by_role("dialog", name="Stop machine stopped?")
        expect(question).to_contain_text("its tensors are lost")
        picture(page, "question")
        page.keyboard.press("Enter")  # the safe answer has the focus
        expect(question).to_be_hidden()
        assert (one + 1).sum().item() == 4

        line.get_by_role("button", name="Stop stopped").click()
        page.get_by_role("button", name="Stop stopped", exact=True).last.click()

        expect(line).to_have_count(0)
        expect(page.locator("#changes")).to_contain_text("stopped is closed")
        with pytest.raises(remora.RemoraException):
            (one + 1).sum().item()


def test_pauses_and_resumes_a_machine_while_its_program_waits(open_page, gateway):
    with connect(gateway, "rests") as machine:
        one = torch.ones(2).to(machine.device())
        assert (one + 1).sum().item() == 4
        page = open_page(secret=ACTIONS)
        line = row(page, "rests")
        pause = line.get_by_role("button", name="Pause rests")
        resume = line.get_by_role("button", name="Resume rests")
        expect(resume).to_be_hidden()

        pause.click()
        question = page.get_by_role("dialog", name="Pause machine rests?")
        expect(question).to_contain_text("Its tensors are saved")
        question.get_by_role("button", name="Pause rests").click()

        expect(line).to_contain_text("paused")
        expect(pause).to_be_hidden()
        expect(page.locator("#changes")).to_contain_text("rests is paused")
        picture(page, "paused")

        resume.click()
        question = page.get_by_role("dialog", name="Resume machine rests?")
        expect(question).to_contain_text("starts a node")
        question.get_by_role("button", name="Resume rests").click()

        expect(line).to_contain_text("ready")
        expect(pause).to_be_enabled()
        assert (one + 1).sum().item() == 4  # its tensors came back
        expect(page.locator("#notice")).to_be_hidden()


def test_over_tls_the_page_signs_in_shows_and_acts(open_page, own_certificate):
    key, certificate = own_certificate
    settings = f'remora.gateway.tls {{ certificate = "{certificate}", private-key = "{key}" }}\n'
    with (
        started_gateway(settings) as gateway,
        remora.RemoteMachine.connect(
            gateway.address,
            token=gateway.token,
            tls=True,
            ca_file=str(certificate),
            provider="mock",
            name="secured",
        ) as machine,
        training(machine),
    ):
        page = open_page(secret=ACTIONS, of=gateway, scheme="https", ignore_https_errors=True)
        assert page.url.startswith("https://")
        login, *others = page.context.cookies()
        assert others == []
        assert login["secure"] and login["httpOnly"] and login["sameSite"] == "Strict"
        line = row(page, "secured")
        expect(line).to_contain_text("ready")
        points = page.evaluate("state.times.length")
        wait_until(page, f"state.times.length > {points + 2}")  # events keep coming
        expect(page.locator("#waits")).to_contain_text("value")  # over grpcio

        line.get_by_role("button", name="Pause secured").click()
        page.get_by_role("dialog").get_by_role("button", name="Pause secured").click()

        # The program goes on training, which resumes the machine.
        expect(page.locator("#log")).to_contain_text("PAUSED")
        expect(page.locator("#notice")).to_be_hidden()
        page.close()  # before its gateway ends


def test_shows_the_lines_of_a_program_that_wait(open_page, trainer):
    page = open_page(viewport={"width": 1280, "height": 900})
    page.locator("#machine-table").get_by_role("link", name="trainer").click()
    causes = page.locator("#waits")
    expect(causes.get_by_role("row", name="value")).to_be_visible()
    lines = page.locator("#wait-lines tbody tr")
    expect(lines.first).to_contain_text("test_dashboard.py:")

    def longest_is_first() -> bool:  # which line that is may change at first
        known = trainer.waits()[0]
        return f"{known.subject} ({known.cause})" in lines.first.text_content()

    await_that(longest_is_first, lines.first.text_content)
    assert str(Path(__file__).parent) not in lines.first.text_content()
    wait_until(page, "[...state.series.get('trainer').waits.value].some(value => value > 0)")
    plot = page.locator("#plots .plot[aria-label^='Waits, of a second. ']")
    expect(plot).to_be_visible()
    expect(plot).to_have_attribute("aria-label", re.compile("value: "))
    shown = page.locator("#waits tr[data-key=value] td").first
    before = shown.text_content()
    expect(shown).not_to_have_text(before)  # the sums go on
    picture(page, "waits")


def test_the_name_of_a_program_s_file_is_only_text(open_page, gateway):
    hostile = "<img src=x onerror=document.body.remove()>" + "x" * 300
    with connect(gateway, "hostile") as machine:
        one = torch.ones(2).to(machine.device())
        exec(compile("one.sum().item()", hostile, "exec"), {"one": one})
        page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
        page.goto(f"{page.url}#machine=hostile")
        lines = page.locator("#wait-lines")
        expect(lines).to_contain_text(hostile[:100])
        assert len(lines.locator("th[scope=row]").first.text_content()) <= 200
        assert page.locator("main img").count() == 0
        assert page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
        picture(page, "hostile-phone")


def test_a_program_gets_a_link_to_its_machines_page(browser, trainer):
    context = browser.new_context()
    context.set_default_timeout(LIMIT)
    page = context.new_page()
    page.goto(trainer.dashboard())
    page.wait_for_url("**/dashboard/", timeout=LIMIT)
    expect(row(page, "trainer")).to_be_visible()
    context.close()


def test_the_command_prints_a_link_that_signs_in_once(browser, gateway):
    link = subprocess.run(
        [
            sys.executable,
            "-m",
            "remora_command",
            "dashboard",
            "--print",
            "--gateway",
            gateway.address,
        ],
        env=os.environ | {"REMORA_GATEWAY_TOKEN": gateway.token},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout.strip()
    assert gateway.token not in link
    for place, times in (("/dashboard/", 1), ("/dashboard/login", 2)):
        context = browser.new_context()
        context.set_default_timeout(LIMIT)
        page = context.new_page()
        page.goto(link)
        page.wait_for_url(f"**{place}", timeout=LIMIT)
        if times == 2:
            expect(page.get_by_role("alert")).to_contain_text("its link was used before")
        context.close()
