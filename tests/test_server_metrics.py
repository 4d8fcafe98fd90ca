"""What a scrape says of an engine's statistics."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from prelude.server.metrics import Metrics
from prelude.types.wire import EngineStats, Ready
from tests.fakes import scripted_client, some_info


async def values(stats: EngineStats, ready: bool = True) -> dict[str, float]:
    client, transport = scripted_client()
    if ready:
        transport.say(Ready(some_info()))
        await client.wait_ready()
    client.stats = stats
    metrics = Metrics(client, "m")
    families = list(text_string_to_metric_families(metrics.text().decode()))
    assert all(family.name.startswith("prelude_") for family in families)
    assert all(family.documentation for family in families)
    await client.close()
    return {sample.name: sample.value for family in families for sample in family.samples}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prelude_engine_up", 1),
        ("prelude_num_requests_running", 3),
        ("prelude_num_requests_waiting", 2),
        ("prelude_kv_cache_usage_perc", 0.25),
        ("prelude_kv_blocks_cached", 7),
        ("prelude_prefix_cache_queries_total", 100),
        ("prelude_prefix_cache_hits_total", 40),
        ("prelude_prompt_tokens_total", 100),
        ("prelude_generation_tokens_total", 55),
        ("prelude_wasted_tokens_total", 4),
        ("prelude_num_preemptions_total", 6),
        ("prelude_steps_total", 9),
        ("prelude_programs_ready", 1),
        ("prelude_programs_wanted", 8),
        ("prelude_step_seconds", 0.02),
        ("prelude_step_price_seconds", 0.018),
        ("prelude_step_overhead_seconds", 0.001),
    ],
)
async def test_engine_statistics(name: str, value: float) -> None:
    stats = EngineStats(
        num_waiting=2,
        num_running=3,
        num_blocks=20,
        num_blocks_referenced=5,
        num_blocks_cached=7,
        num_steps=9,
        num_preemptions=6,
        prompt_tokens=100,
        cached_prompt_tokens=40,
        output_tokens=55,
        wasted_tokens=4,
        programs_ready=1,
        programs_total=8,
        step_ms=20.0,
        step_price_ms=18.0,
        overhead_ms=1.0,
    )
    assert (await values(stats))[name] == pytest.approx(value)


async def test_before_the_engine_is_there() -> None:
    found = await values(EngineStats(), ready=False)
    assert found["prelude_engine_up"] == 0
    assert found["prelude_kv_cache_usage_perc"] == 0


async def test_two_servers_do_not_share_numbers() -> None:
    client, _ = scripted_client()
    one, two = Metrics(client, "m"), Metrics(client, "m")
    one.unknown_field("x")
    assert b'field="x"' in one.text()
    assert b'field="x"' not in two.text()
    await client.close()
