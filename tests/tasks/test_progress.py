"""Progress: what listeners and the Prefect artifact are told, with times that hold after a resume."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from flows.terminal import showing
from store.home import Home
from tasks import progress as progress_module
from tasks.progress import Event, account, dollars, listening, progress, seconds_left


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tasks.progress.time", clock)
    monkeypatch.setattr("flows.terminal.time", clock)
    return clock


@pytest.fixture
def events() -> Iterator[list[Event]]:
    heard: list[Event] = []
    with listening(heard.append):
        yield heard


class TestEvents:
    def test_rows_tokens_and_cost_add_up(self, clock: Clock, events: list[Event]) -> None:
        with progress("unit", total=10, done=4) as meter:
            for _ in range(2):
                clock.now += 5
                meter.advance(2, tokens=100, cost=0.25)
        assert events[0] == Event("unit", 4, 10, 0, 0.0, False, 0.0, 4)
        assert events[-2] == Event("unit", 8, 10, 200, 10.0, False, 0.5, 4)
        assert events[-1] == events[-2]._replace(finished=True)

    def test_the_end_is_told_after_an_error_too(self, events: list[Event]) -> None:
        with pytest.raises(ZeroDivisionError), progress("unit", total=2):
            raise ZeroDivisionError
        assert [event.finished for event in events] == [False, True]

    def test_a_note_is_told_until_there_is_another(self, events: list[Event]) -> None:
        with progress("training", total=2, rows="steps") as meter:
            meter.advance(1, note="loss 2.000")
            meter.advance(1, note="loss 1.000")
        assert [event.note for event in events] == ["", "loss 2.000", "loss 1.000", "loss 1.000"]
        assert account(events[1])[0] == "loss 2.000"

    def test_what_an_earlier_attempt_did_counts_as_done_and_not_as_pace(
        self, clock: Clock, events: list[Event]
    ) -> None:
        with progress("training", total=100) as meter:
            meter.resume(50)
            clock.now += 10
            meter.advance(1)
        assert (events[1].done, events[1].started_at_done) == (51, 50)
        assert seconds_left(events[1]) == pytest.approx(490)


class TestTimeLeft:
    def test_what_landed_before_does_not_count(self) -> None:
        # 10 rows in 20 s since the start, so 100 more take 200 s; counting all 900 would say 2.2 s.
        resumed = Event("unit", 900, 1000, 0, 20.0, False, 0.0, 890)
        assert seconds_left(resumed) == pytest.approx(200.0)

    @pytest.mark.parametrize(
        "event",
        [
            Event("nothing landed yet", 5, 10, 0, 9.0, False, 0.0, 5),
            Event("all rows are there", 10, 10, 0, 9.0, False, 0.0, 5),
            Event("it ended early", 7, 10, 0, 9.0, True, 0.0, 5),
        ],
        ids=lambda event: event.name,
    )
    def test_it_is_not_known(self, event: Event) -> None:
        assert seconds_left(event) is None


class TestWords:
    @pytest.mark.parametrize(
        ("event", "expected"),
        [
            (Event("u", 5, 10, 5000, 10.0, False, 0.42, 0), ["500 tokens/s", "10 s left", "$0.42"]),
            (Event("u", 1, 601, 0, 1.0, False, 0.0, 0), ["10 min left"]),
            (Event("u", 1, 12601, 14000, 1.0, False, 0.0, 0), ["14,000 tokens/s", "3 h 30 min left"]),
            (Event("u", 10, 10, 50, 10.0, True, 0.0, 0), ["5 tokens/s"]),
            (Event("u", 0, 10, 0, 0.0, False, 0.0, 0), []),
        ],
    )
    def test_what_is_not_known_is_left_out(self, event: Event, expected: list[str]) -> None:
        assert account(event) == expected

    @pytest.mark.parametrize(
        ("cost", "expected"), [(0.0, "$0.00"), (0.00042, "$0.00042"), (0.01, "$0.01"), (1234.5, "$1,234.50")]
    )
    def test_small_amounts_keep_digits_that_count(self, cost: float, expected: str) -> None:
        assert dollars(cost) == expected


class TestTerminal:
    def test_plain_lines_say_rate_time_left_and_cost(self, clock: Clock) -> None:
        shown = io.StringIO()
        with showing(Console(file=shown, width=120)) as show, listening(show), progress("unit", 110, 10) as meter:
            clock.now += 20
            meter.advance(10, tokens=4000, cost=0.42)
            meter.advance(10)  # too soon after the last line for one more
            clock.now += 20
            meter.advance(80)
        lines = shown.getvalue().splitlines()
        assert lines == [
            "unit: 20/110 in 20 s, 200 tokens/s, 3 min left, $0.42",
            "unit: 110/110 in 40 s, 100 tokens/s, $0.42",
            "unit: 110/110 in 40 s, 100 tokens/s, $0.42",
        ]

    def test_bars_say_the_same(self, clock: Clock) -> None:
        shown = io.StringIO()
        console = Console(file=shown, width=120, force_terminal=True, color_system=None)
        with showing(console) as show, listening(show), progress("unit", 110, 10) as meter:
            clock.now += 20
            meter.advance(10, tokens=4000, cost=0.42)
        drawn = [line for line in shown.getvalue().splitlines() if "20/110" in line]
        assert "unit" in drawn[-1]
        assert drawn[-1].rstrip().endswith("200 tokens/s, $0.42")  # the unit has ended, so no time is left


class TestArtifact:
    @pytest.mark.real
    def test_it_says_rows_rate_and_cost_and_is_written_seldom(
        self, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from prefect import flow
        from prefect.client.orchestration import get_client

        from flows.server import prefect_api, prepare_environment

        home = Home(tmp_path)
        monkeypatch.setenv("PREFECT_HOME", str(home.folder / "prefect"))
        prepare_environment(home)
        written: list[str] = []
        update = progress_module.update_progress_artifact

        def noted(*arguments: object, description: str, **options: object) -> object:
            written.append(description)
            return update(*arguments, description=description, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(progress_module, "update_progress_artifact", noted)

        @flow
        def working() -> None:
            with progress("A unit, of rows", total=1000, done=200) as meter:
                for _ in range(40):
                    clock.now += 0.25
                    meter.advance(10, tokens=150, cost=0.02)

        with prefect_api(home):
            working()
            with get_client(sync_client=True) as client:
                [artifact] = [one for one in client.read_artifacts() if one.type == "progress"]
        assert (artifact.key, artifact.data) == ("progress-a-unit-of-rows", 60.0)
        assert artifact.description == "A unit, of rows: 600 of 1,000 rows, 600 tokens/s, $0.80"
        assert len(written) == 4  # every 3 of 10 seconds, and the end
        assert written[0] == "A unit, of rows: 330 of 1,000 rows, 600 tokens/s, 17 s left, $0.26"

    def test_one_that_cannot_be_written_does_not_fail_the_unit(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(**_options: object) -> None:
            raise ConnectionError("no API")

        monkeypatch.setattr(progress_module, "create_progress_artifact", refuse)
        monkeypatch.setattr(progress_module.FlowRunContext, "get", lambda: object())
        with progress("unit", total=2) as meter:
            meter.advance(2)
        assert meter.done == 2
        assert [record.message for record in caplog.records] == [
            "the progress artifact of unit cannot be written: no API"
        ]
