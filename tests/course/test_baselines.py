"""What moved between runs, and against a baseline; no notebook is run here."""

import json

import pytest

from qlora_kit import KitError
from qlora_kit.course import (
    baseline_changes,
    compare_runs,
    read_baseline,
    read_run,
    updated_baseline,
    write_baseline,
)
from qlora_kit.course.baselines import Expected, against_baseline, is_machines
from qlora_kit.course.lessons.claims import Claim, Metric
from qlora_kit.course.results import CourseRun, NotebookResult, write_run
from tests.helpers import kit


def result(status="passed", claims=None, metrics=(), minutes=1.0, gb=2.0):
    found = tuple(Claim(name, held, {"x": 1.0}) for name, held in (claims or {}).items())
    return NotebookResult(status, "", minutes, gb, "0", found, tuple(Metric(*m) for m in metrics))


def course(torch="2.13.0", **notebooks):
    return CourseRun("smoke", {"python": "3.11.7", "torch": torch}, "cpu", notebooks)


BEFORE = course(
    one=result(
        claims={"stays": True, "flips": True, "mends": False, "goes": True},
        metrics=[("ppl", 20.0, "nats"), ("seconds", 5.0, "s"), ("gone", 1.0, "")],
    ),
    two=result(),
    three=result(),
)
AFTER = course(
    torch="2.14.0",
    one=result(
        claims={"stays": True, "flips": False, "mends": True, "comes": True},
        metrics=[("ppl", 22.0, "nats"), ("seconds", 50.0, "s"), ("new", 1.0, "")],
        minutes=9.0,
    ),
    two=result(status="killed"),
    four=result(),
)


def test_compare_finds_everything_that_moved():
    found = compare_runs(BEFORE, AFTER)
    assert [str(move) for move in found.moves] == [
        "version torch: 2.13.0 -> 2.14.0",
        "claim one flips: held -> false (WORSE)",
        "claim one mends: false -> held",
        "claim one goes: vanished: held",
        "claim one comes: appeared: held",
        "metric one ppl: 20 nats -> 22 nats",
        "metric one gone: vanished: 1",
        "metric one new: appeared: 1",
        "status two: passed -> killed (WORSE)",
    ]
    assert found.worse
    assert (found.only_before, found.only_after) == (("three",), ("four",))
    assert str(found.usage[0]) == "one: 1.0 -> 9.0 minutes, 2.0 -> 2.0 GB"


def test_the_same_run_has_not_moved():
    found = compare_runs(BEFORE, BEFORE)
    assert found.moves == ()
    assert not found.worse


def test_a_new_claim_that_is_false_is_worse():
    assert compare_runs(course(one=result()), course(one=result(claims={"c": False}))).worse


@pytest.mark.parametrize(
    ("value", "band", "moved"), [(21.0, None, False), (21.1, None, True), (22.0, 2.5, False)]
)
def test_a_metric_moves_beyond_its_band_or_five_percent(value, band, moved):
    baseline = {"one": {"ppl": Expected(20.0, "nats", band)}} if band else {}
    before, after = (course(one=result(metrics=[("ppl", v, "nats")])) for v in (20.0, value))
    assert bool(compare_runs(before, after, baseline).moves) == moved


def test_another_unit_is_another_metric():
    before, after = (course(one=result(metrics=[("m", 1.0, unit)])) for unit in ("GB", "MB"))
    assert [move.after for move in compare_runs(before, after).moves] == ["1 MB"]


@pytest.mark.parametrize("unit", ["s", "ms", "minutes", "tokens/s", "tokens a second", "GB/s"])
def test_units_of_time_and_speed_are_never_judged(unit):
    assert is_machines(Metric("m", 1.0, unit))
    before, after = (course(one=result(metrics=[("m", v, unit)])) for v in (1.0, 99.0))
    assert compare_runs(before, after).moves == ()
    [metric] = against_baseline(after, {"one": {"m": Expected(1.0, unit, 0.0)}})
    assert (metric.status, metric.failed) == ("machine", False)
    assert updated_baseline(after, {}) == {"one": {}}


def test_what_a_lesson_records_as_the_machines_is_never_judged():
    before, after = (course(one=result(metrics=[("peak", v, "GB", True)])) for v in (1.0, 99.0))
    assert compare_runs(before, after).moves == ()
    [metric] = against_baseline(after, {"one": {"peak": Expected(1.0, "GB", 0.0)}})
    assert (metric.status, metric.failed) == ("machine", False)
    assert updated_baseline(after, {}) == {"one": {}}


@pytest.mark.parametrize("unit", ["", "nats a token", "GB", "bits", "steps", "tokens", "nats/step"])
def test_other_units_are_judged(unit):
    assert not is_machines(Metric("m", 1.0, unit))


def test_every_metric_gets_a_word():
    metrics = [("good", 1.05, ""), ("bad", 1.2, ""), ("fresh", 3.0, ""), ("unit", 1.0, "MB")]
    band = {
        "good": Expected(1.0, "", 0.05),
        "bad": Expected(1.0, "", 0.1),
        "lost": Expected(1.0, "", 0.1),
        "unit": Expected(1.0, "GB", 0.1),
    }
    run = course(one=result(metrics=metrics))
    results = against_baseline(run, {"one": band, "not run": band})
    words = {metric.name: (metric.status, metric.failed) for metric in results}
    assert words == {
        "good": ("in band", False),
        "bad": ("out of band", True),
        "fresh": ("new", False),
        "lost": ("missing", True),
        "unit": ("other unit", True),
    }


def test_the_baseline_takes_values_and_keeps_bands_that_somebody_chose(tmp_path):
    old = {
        "one": {"ppl": Expected(18.0, "nats", 3.0), "stale": Expected(1.0, "", 0.1)},
        "two": {"kept": Expected(1.0, "", 0.1)},
    }
    run = course(
        one=result(metrics=[("ppl", 20.123456789, "nats"), ("zero", 0.0, ""), ("x", 2.0, "")]),
        two=result(status="failed", metrics=[("kept", 9.0, "")]),
    )
    new = updated_baseline(run, old)
    assert new == {
        "one": {
            "ppl": Expected(20.1235, "nats", 3.0),
            "zero": Expected(0.0, "", 0.05),
            "x": Expected(2.0, "", 0.1),
        },
        "two": old["two"],
    }
    assert baseline_changes(old, new) == [
        "one ppl: 18 ± 3 nats -> 20.12 ± 3 nats",
        "one stale: gone: 1 ± 0.1",
        "one x: new: 2 ± 0.1",
        "one zero: new: 0 ± 0.05",
    ]
    assert baseline_changes(new, new) == []
    write_baseline(new, tmp_path / "deep" / "smoke.json")
    assert read_baseline(tmp_path / "deep" / "smoke.json") == new
    assert read_baseline(tmp_path / "absent.json") == {}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"one": []}',
        '{"one": {"m": {"value": 1, "unit": ""}}}',
        '{"one": {"m": {"value": "1", "unit": "", "band": 1}}}',
        '{"one": {"m": {"value": 1, "unit": "", "band": -1}}}',
        '{"one": {"m": {"value": NaN, "unit": "", "band": 1}}}',
    ],
)
def test_a_damaged_baseline_is_named(tmp_path, text):
    (tmp_path / "smoke.json").write_text(text)
    with pytest.raises(KitError, match=r"smoke.json cannot be read"):
        read_baseline(tmp_path / "smoke.json")


def test_a_run_is_read_back_as_written(tmp_path):
    write_run(BEFORE, tmp_path)
    assert read_run(tmp_path) == read_run(tmp_path / "metrics.json") == BEFORE
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    (tmp_path / "metrics.json").write_text('{"profile": "smoke"}')
    with pytest.raises(KitError, match="not a run of the course"):
        read_run(tmp_path)
    with pytest.raises(KitError, match="no run of the course"):
        read_run(tmp_path / "absent")


def test_the_command_line_compares(tmp_path):
    for name, run in (("a", BEFORE), ("b", AFTER)):
        (tmp_path / name).mkdir()
        write_run(run, tmp_path / name)
    shown = kit("course", "compare", tmp_path / "a", tmp_path / "b")
    assert shown.returncode == 1
    assert "claim one flips: held -> false (WORSE)" in shown.stdout
    told = kit("course", "compare", tmp_path / "a", tmp_path / "a" / "metrics.json", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["moves"] == []


def test_the_command_line_shows_a_new_baseline_before_it_writes(tmp_path):
    write_run(AFTER, tmp_path)
    options = ["--baselines", tmp_path / "baselines"]
    asked = kit("course", "baseline", tmp_path, *options, stdin="n\n")
    assert "one ppl: new: 22 ± 1.1 nats" in asked.stdout
    assert "two: left out, killed" in asked.stdout
    assert not (tmp_path / "baselines").exists()
    assert kit("course", "baseline", tmp_path, *options, "--yes").returncode == 0
    assert read_baseline(tmp_path / "baselines" / "smoke.json")["one"]["new"].value == 1.0
    assert "stays as it is" in kit("course", "baseline", tmp_path, *options).stdout
