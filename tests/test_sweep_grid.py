"""Axes of a sweep, and the points they make: all are checked, and there are not too many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.conf.command import SIMULATE
from prelude.conf.compose import ConfigError
from prelude.sweep.grid import axes, product
from prelude.sweep.points import grid, space_of
from prelude.sweep.targets import TARGETS
from tests.sweeps import LINES, space

SIMULATION = TARGETS["simulate"]
CHEAP = ("mix=m4", "traffic.load=null", "traffic.rate=4", "traffic.num_requests=40")


def lines_of(*lines: str) -> list[list[str]]:
    """What the product's points would be as command lines."""
    found = axes(SIMULATE, lines)
    by_key = {axis.key: axis for axis in found}
    return [[by_key[key].line(value) for key, value in chosen] for chosen in product(found)]


@pytest.mark.parametrize(
    ("lines", "points"),
    [
        ([], [[]]),
        (["a=1"], [["a=1"]]),
        (["a=1,2"], [["a=1"], ["a=2"]]),
        (["a=1,2", "b=x", "c=range(0,2)"], [
            ["a=1", "b=x", "c=0"],
            ["a=1", "b=x", "c=1"],
            ["a=2", "b=x", "c=0"],
            ["a=2", "b=x", "c=1"],
        ]),
        (["a=choice(x,y)"], [["a=x"], ["a=y"]]),
        (["a=range(1,2,0.5)"], [["a=1.0"], ["a=1.5"]]),
        (["a=[1,2]"], [["a=[1,2]"]]),
        (["a=[1,2],[3]"], [["a=[1,2]"], ["a=[3]"]]),
        (["a={},{b: 1}"], [["a={}"], ["a={b:1}"]]),
        (["+a.b=x,y"], [["+a.b=x"], ["+a.b=y"]]),
        (["~a"], [["~a"]]),
        (["a='x,y',z"], [["a='x,y'"], ["a=z"]]),
        (["a=1,2", "a=3"], [["a=3"]]),
        (["a=3", "b=1", "a=1,2"], [["a=1", "b=1"], ["a=2", "b=1"]]),
    ],
)  # fmt: skip
def test_the_product_of_what_is_swept(lines: list[str], points: list[list[str]]) -> None:
    assert lines_of(*lines) == points


def test_a_shuffled_sweep_has_the_same_values() -> None:
    (axis,) = axes(SIMULATE, ["a=shuffle(range(0,20))"])
    assert sorted(axis.values, key=int) == [str(number) for number in range(20)]


def test_globs_choose_among_a_groups_options() -> None:
    (axis,) = axes(SIMULATE, ["mix=glob(m*, exclude=[m2,m3,m5,m6,m7])"])
    assert axis.values == ("m1", "m4")
    (axis,) = axes(SIMULATE, ["batcher=glob(*)"])
    assert {"fcfs", "class_aware"} <= set(axis.values)


@pytest.mark.parametrize("line", ["traffic.seed=glob(*)", "mix=glob(nothing*)", "a=b(", "a"])
def test_what_cannot_be_swept(line: str) -> None:
    with pytest.raises(ConfigError):
        axes(SIMULATE, [line])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_the_product_has_every_combination_once(sizes: list[int]) -> None:
    lines = [f"k{i}={','.join(map(str, range(size)))}" for i, size in enumerate(sizes)]
    found = lines_of(*lines)
    total = 1
    for size in sizes:
        total *= size
    assert len({tuple(point) for point in found}) == len(found) == total
    assert found == sorted(found)


def test_points_carry_their_configuration_and_what_was_swept() -> None:
    lines = [*CHEAP, "batcher.policy=fcfs,class_aware", "traffic.seed=range(0,2)"]
    found = grid(space_of("simulate", SIMULATION, lines), 10)
    assert [(p.config.batcher.policy, p.config.traffic.seed) for p in found] == [
        ("fcfs", 0), ("fcfs", 1), ("class_aware", 0), ("class_aware", 1)
    ]  # fmt: skip
    assert found[1].swept == (("batcher.policy", "fcfs"), ("traffic.seed", "1"))
    assert found[1].overrides == (*CHEAP, "batcher.policy=fcfs", "traffic.seed=1")
    assert len({point.digest for point in found}) == 4
    assert found == grid(space_of("simulate", SIMULATION, lines), 10)


def test_equal_configurations_have_equal_digests() -> None:
    one, other = grid(space_of("simulate", SIMULATION, ["mix=m1,m1"]), 2)
    assert one.digest == other.digest


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["traffic.seed=range(0,1001)"], "1001 points in this sweep; sweep.max_points=1000"),
        (["traffic.load=1,x"], "traffic.load=x: must be a number"),
        (["traffic.load=0.5,-1"], "traffic.load=-1.0: out of bounds"),
        (["traffic.laod=1,2"], "did you mean traffic.load"),
        (["batcher.deep_share=interval(0,1)"], "sweep.search=optuna"),
        (["result=a,b"], "result: a sweep sets this itself"),
        (["replay=steps.jsonl"], "not by a sweep"),
        (["mix=m1,m99"], "no such option"),
    ],
)
def test_every_point_is_checked_before_any_runs(lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        grid(space_of("simulate", SIMULATION, lines), 1000)


def test_traffic_and_devices_are_regimes_and_the_rest_settings() -> None:
    of = space()
    assert [axis.key for axis in of.swept] == [line.partition("=")[0] for line in LINES]
    for key in ("mix", "device", "device.max_seqs", "traffic.load", "fleet.replicas"):
        assert of.is_regime(key) and not of.is_setting(key)
    assert of.is_setting("batcher.policy") and not of.is_regime("batcher.policy")
    assert not of.is_setting("traffic.seed") and not of.is_regime("traffic.seed")


def test_command_lines_name_folders_of_options_wherever_they_are_run(tmp_path: object) -> None:
    of = space_of("simulate", SIMULATION, CHEAP, [str(tmp_path)])
    (point,) = grid(of, 1)
    assert of.arguments(point) == ["--config-dir", str(tmp_path), *CHEAP]
