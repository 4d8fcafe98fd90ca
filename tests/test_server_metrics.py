"""What a scrape says of an engine's statistics."""

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from prelude.server.metrics import Metrics
from prelude.types.errors import REFUSAL_CODES
from prelude.types.service import SERVICE_CLASSES
from prelude.types.wire import ClassStats, EngineStats, Progress, Ready, StepEvents
from tests.fakes import scripted_client, some_info, until


async def values(stats: EngineStats, ready: bool = True) -> dict[str, float]:
    client, transport = scripted_client()
    if ready:
        transport.say(Ready(some_info()))
        await client.wait_ready()
    client.stats = stats
    metrics = Metrics(client, "m")
    families = list(text_string_to_metric_families(metrics.text().decode()))
    assert all(family.name.startswith(("prelude_", "vllm:", "process_")) for family in families)
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
        ("prelude_step_budget_seconds", 0.05),
        ("prelude_num_parks_total", 2),
        ("prelude_num_swaps_total", 11),
        ("prelude_kv_blocks_swapped_total", 120),
        ("prelude_startup_ratio", 1),
        ("prelude_max_seqs", 8),
        ("prelude_kv_blocks", 16),
        ("prelude_build_info", 1),
        ("vllm:num_requests_running", 3),
        ("vllm:num_requests_waiting", 2),
        ("vllm:kv_cache_usage_perc", 0.25),
        ("vllm:prefix_cache_queries_total", 100),
        ("vllm:prefix_cache_hits_total", 40),
        ("vllm:prompt_tokens_total", 100),
        ("vllm:generation_tokens_total", 55),
        ("vllm:num_preemptions_total", 6),
        ("vllm:cache_config_info", 1),
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
        budget_ms=50.0,
        num_parks=2,
        num_swaps=11,
        num_swapped_blocks=120,
    )
    assert (await values(stats))[name] == pytest.approx(value)


async def test_before_the_engine_is_there() -> None:
    found = await values(EngineStats(), ready=False)
    assert found["prelude_engine_up"] == 0
    assert found["prelude_kv_cache_usage_perc"] == 0


async def scraped(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """By name and by the values of the labels that are not the model's name."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name, *(v for k, v in sorted(sample.labels.items()) if k != "model_name")): (
            sample.value
        )
        for family in families
        for sample in family.samples
    }


async def test_classes_have_their_gauges() -> None:
    client, _ = scripted_client()
    metrics = Metrics(client, "m")
    found = await scraped(metrics)
    assert all(found["prelude_class_waiting", name] == 0 for name in SERVICE_CLASSES)
    numbers = iter(range(1, 17))
    of = tuple(ClassStats(*(next(numbers) for _ in range(4))) for _ in SERVICE_CLASSES)
    client.stats = EngineStats(classes=of)
    found = await scraped(metrics)
    for name, one in zip(SERVICE_CLASSES, of, strict=True):
        gauges = [found[f"prelude_class_{w}", name] for w in ("waiting", "running", "parked")]
        assert gauges == [one.num_waiting, one.num_running, one.num_parked]
        assert found["prelude_class_blocks", name] == one.num_blocks
    await client.close()


async def test_refusals_are_counted_by_reason() -> None:
    client, _ = scripted_client()
    metrics = Metrics(client, "m")
    found = await scraped(metrics)
    assert all(found["prelude_requests_refused_total", code] == 0 for code in REFUSAL_CODES)
    client.stats = EngineStats(refused=tuple(range(len(REFUSAL_CODES))))
    found = await scraped(metrics)
    for number, code in enumerate(REFUSAL_CODES):
        assert found["prelude_requests_refused_total", code] == number
    await client.close()


async def test_latencies_are_histograms_by_class() -> None:
    client, _ = scripted_client()
    metrics = Metrics(client, "m")
    for seconds in (0.0009, 0.0011, 0.004, 5000.0):
        metrics.inter_token["deep"].add(seconds)
    found = await scraped(metrics)
    name = "prelude_inter_token_latency_seconds"
    buckets = {key[1]: value for key, value in found.items() if key[0] == f"{name}_bucket"}
    assert {key[2] for key in found if key[0] == f"{name}_bucket"} == {"deep"}
    assert (buckets["0.001"], buckets["0.0016"], buckets["0.0025"]) == (1, 2, 2)
    assert (buckets["0.004"], buckets["10.0"], buckets["+Inf"]) == (3, 3, 4)
    assert len(buckets) == 27  # five a decade from 0.1 ms to 10 s, and the rest
    assert list(buckets.values()) == sorted(buckets.values())
    assert found[f"{name}_count", "deep"] == 4
    assert found[f"{name}_sum", "deep"] == pytest.approx(5000.006)
    assert (f"{name}_count", "fast") not in found
    await client.close()


async def test_vllm_knows_no_classes() -> None:
    client, _ = scripted_client()
    metrics = Metrics(client, "m")
    metrics.ttft["fast"].add(0.0011)
    metrics.ttft["deep"].add(0.004)
    metrics.finished("stop", "fast")
    metrics.finished("stop", "deep")
    metrics.finished("length", "deep")
    metrics.prompt_tokens.observe(7)
    found = await scraped(metrics)
    name = "vllm:time_to_first_token_seconds"
    assert (found[f"{name}_bucket", "0", "0.0016"], found[f"{name}_bucket", "0", "0.01"]) == (1, 2)
    assert found[f"{name}_count", "0"] == 2
    assert found[f"{name}_sum", "0"] == pytest.approx(0.0051)
    assert found["vllm:request_success_total", "0", "stop"] == 2
    assert found["vllm:request_success_total", "0", "length"] == 1
    assert found["vllm:request_prompt_tokens_count", "0"] == 1
    assert found["vllm:request_prompt_tokens_bucket", "0", "10.0"] == 1
    await client.close()


async def test_every_latency_has_both_names() -> None:
    client, _ = scripted_client()
    metrics = Metrics(client, 'a "b"\\')
    families = {family.name for family in text_string_to_metric_families(metrics.text().decode())}
    ours = {name.removeprefix("prelude_") for name in families if name.startswith("prelude_")}
    its = {name.removeprefix("vllm:") for name in families if name.startswith("vllm:")}
    assert its <= ours
    assert {"e2e_request_latency_seconds", "request_decode_time_seconds"} <= its
    await client.close()


async def test_phases_of_the_start() -> None:
    client, transport = scripted_client()
    metrics = Metrics(client, "m")
    transport.say(Progress("loading weights", 0.5))
    await until(lambda: client.progress.fraction == 0.5)
    found = await scraped(metrics)
    assert (found["prelude_engine_up",], found["prelude_startup_ratio",]) == (0, 0.5)
    phases = {"imports": 1.5, "loading weights": 2.0}
    transport.say(Ready(msgspec.structs.replace(some_info(), startup_s=phases)))
    await client.wait_ready()
    found = await scraped(metrics)
    assert (found["prelude_engine_up",], found["prelude_startup_ratio",]) == (1, 1)
    assert found["prelude_startup_seconds", "loading weights"] == 2.0
    await client.close()


async def test_labels_are_escaped() -> None:
    client, _ = scripted_client()
    metrics = Metrics(client, 'a "b"\\')
    metrics.ttft["fast"].add(1.0)
    families = text_string_to_metric_families(metrics.text().decode())
    names = {
        s.labels["model_name"] for f in families for s in f.samples if "model_name" in s.labels
    }
    assert names == {'a "b"\\'}
    await client.close()


async def test_steps_are_counted_as_they_are_told() -> None:
    client, transport = scripted_client()
    metrics = Metrics(client, "m")
    for step, step_ms in enumerate((10.0, 60.0, 40.0), 1):
        transport.say(StepEvents([], EngineStats(num_steps=step, step_ms=step_ms, budget_ms=50.0)))
    await until(lambda: client.stats.num_steps == 3)
    found = await scraped(metrics)
    assert found["prelude_step_duration_seconds_count",] == 3
    assert found["prelude_step_duration_seconds_sum",] == pytest.approx(0.11)
    assert found["prelude_steps_over_budget_total",] == 1
    await client.close()


async def test_two_servers_do_not_share_numbers() -> None:
    client, _ = scripted_client()
    one, two = Metrics(client, "m"), Metrics(client, "m")
    one.unknown_field("x")
    assert b'field="x"' in one.text()
    assert b'field="x"' not in two.text()
    await client.close()
