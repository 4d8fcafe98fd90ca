"""Composition: precedence, sources, and errors that say what to do."""

from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from prelude.conf.bench import EngineBenchConfig, LengthKind, ServeBenchConfig
from prelude.conf.command import BENCH_ENGINE, BENCH_SERVE, ENGINE, Command
from prelude.conf.compose import ConfigError
from prelude.conf.load import explain, load, load_config
from prelude.conf.schema import (
    AttentionBackend,
    Capture,
    Config,
    Device,
    Dtype,
    LoadFormat,
    LogLevel,
)

ROOT = Path(__file__).resolve().parent.parent

PRESETS = ("balanced", "cpu", "cuda", "latency", "lowmem", "throughput")


def options(folder: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / folder).glob("*.yaml"))


def message(overrides: Any, command: Command = ENGINE, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(command, command.schema, overrides, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def source(name: str, overrides: list[str], **kwargs: Any) -> str:
    (value,) = [v for v in explain(ENGINE, overrides, **kwargs) if v.name == name]
    return value.origin


def test_nothing_given_is_the_schemas_defaults() -> None:
    assert load_config() == Config()


def test_overrides_of_every_type() -> None:
    config = load_config(
        [
            "server.port=9000",
            "cache.memory_fraction=0.25",
            "cache.prefix=false",
            "model.dtype=bfloat16",
            "model.name=null",
            "model.path='/a b/c=d'",
            "batcher.step_ms=50",
        ]
    )
    assert config.server.port == 9000
    assert config.cache.memory_fraction == 0.25
    assert config.cache.prefix is False
    assert config.model.dtype is Dtype.bfloat16
    assert config.model.name is None
    assert config.model.path == "/a b/c=d"
    assert config.batcher.step_ms == 50.0
    assert isinstance(config.batcher.step_ms, float)


def test_a_mapping_may_be_nested_dotted_and_typed() -> None:
    config = load_config(
        {
            "preset": "latency",
            "model": {"path": Path("/models/x"), "dtype": Dtype.float32},
            "server.port": 9000,
            "runner": "cpu",
        }
    )
    assert config.model.path == "/models/x"
    assert config.model.dtype is Dtype.float32
    assert config.server.port == 9000
    assert config.runner.device is Device.cpu
    assert config.runner.max_seqs == load_config(["preset=latency"]).runner.max_seqs


def test_a_mappings_texts_are_not_parsed() -> None:
    text = "a,b=[${oc.env:HOME} \\${ ${ 'x\" y"
    assert load_config({"model.path": text}).model.path == text


def test_mapping_and_lines_give_the_same() -> None:
    lines = load_config(["model=tiny", "cache.block_size=32"])
    assert load_config({"model": "tiny", "cache": {"block_size": 32}}) == lines


def test_last_override_wins() -> None:
    assert load_config(["server.port=1", "server.port=2"]).server.port == 2
    assert load_config(["model=tiny", "model=demo"]).model == load_config().model
    assert load_config(["preset=latency", "preset=balanced"]) == load_config()


def test_keys_beat_presets_and_presets_beat_groups() -> None:
    assert load_config(["runner.max_seqs=3", "preset=latency"]).runner.max_seqs == 3
    assert load_config(["runner=cuda", "preset=latency"]).runner.device is Device.cuda


def test_a_mapping_of_keys_sets_several() -> None:
    config = load_config(["server={port: 1, host: ::1}"])
    assert (config.server.port, config.server.host) == (1, "::1")


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_open_mappings_take_new_names(prefix: str) -> None:
    config = load_config(["model=tiny", f"{prefix}model.hf_config.rope_scaling.factor=2.0"])
    assert config.model.hf_config["rope_scaling"] == {"factor": 2.0}
    assert config.model.hf_config["hidden_size"] == 64


def test_entries_of_open_mappings_can_be_removed() -> None:
    assert (
        "head_dim" not in load_config(["model=tiny", "~model.hf_config.head_dim"]).model.hf_config
    )


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", options("model"))
def test_every_preset_composes_with_every_model(preset: str, model: str) -> None:
    config = load_config([f"preset={preset}", f"model={model}"])
    assert is_plain(config)


def test_presets_are_the_documented_ones() -> None:
    assert options("preset") == sorted(PRESETS)


def test_cpu_preset_chooses_group_options() -> None:
    config = load_config(["preset=cpu"])
    assert config.runner.device is Device.cpu
    assert config.attention.backend is AttentionBackend.cpu
    assert source("attention.backend", ["preset=cpu"]) == "attention/cpu.yaml"


@pytest.mark.parametrize("group", list(ENGINE.groups))
def test_every_option_of_every_group_composes(group: str) -> None:
    for option in options(group):
        assert is_plain(load_config([f"{group}={option}"]))


def test_options_mean_what_they_say() -> None:
    assert load_config(["graphs=eager"]).graphs.capture is Capture.eager
    assert load_config(["log=debug"]).log.level is LogLevel.DEBUG
    assert load_config(["server=public"]).server.host == "0.0.0.0"
    assert load_config(["sampling=greedy"]).sampling.temperature == 0.0
    assert load_config(["cache=private"]).cache.prefix is False


def test_random_shapes_carry_everything_a_checkpoint_would() -> None:
    model = load_config(["model=qwen3_0_6b"]).model
    assert model.load_format is LoadFormat.random
    shape = model.hf_config
    assert (shape["vocab_size"], shape["hidden_size"]) == (151936, 1024)
    assert (shape["num_attention_heads"], shape["num_key_value_heads"]) == (16, 8)
    assert (shape["num_hidden_layers"], shape["head_dim"]) == (28, 128)
    assert shape["rope_theta"] == 1e6 and isinstance(shape["rope_theta"], float)
    assert shape["rms_norm_eps"] == 1e-6 and isinstance(shape["rms_norm_eps"], float)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("server.prot=1", "server.prot: unknown key; did you mean server.port?"),
        ("port=1", "port: unknown key; did you mean server.port?"),
        ("modl=tiny", "modl: unknown key; did you mean model?"),
        ("server={prot: 1}", "server.prot: unknown key; did you mean server.port?"),
        ("hydra.run.dir=x", "hydra.run.dir: unknown key"),
        ("+new.key=1", "new.key: unknown key"),
        ("server.port=abc", "server.port=abc: must be a whole number"),
        ("server.port=null", "server.port=None: "),
        ("runner.threads=1.5", "runner.threads=1.5: must be a whole number"),
        ("batcher.step_ms=fast", "batcher.step_ms=fast: must be a number"),
        ("cache.prefix=maybe", "cache.prefix=maybe: must be true or false"),
        ("model.dtype=int4", "expected one of [auto, float32, bfloat16, float16]"),
        ("log.level=debug", "expected one of [DEBUG, INFO, WARNING, ERROR]"),
        ("model=dmo", "model=dmo: no such option; did you mean demo?"),
        ("model=zzz", "(there are demo, qwen3_0_6b, qwen3_4b, qwen3_8b, tiny)"),
        ("model=null", "no such option"),
        ("~model", "no such option"),
        ("server=3", "no such option"),
        ("cache.block_size={a: 1}", "cache.block_size"),
        ("server.port", "server.port: expected KEY=VALUE or GROUP=OPTION"),
        ("server.port=1,2", "only `prelude sweep` takes them"),
        ("model=demo,tiny", "only `prelude sweep` takes them"),
        ("model.path=a=b(", "quote it, as in 'model.path=\"a=b(\"'"),
        ("~server.port", "only entries of a mapping can be removed"),
        ("~model.hf_config.nothing", "only entries of a mapping can be removed"),
        ("model@x=tiny", "model@x=tiny: no such option"),
        ("model.path=${oc.env:PRELUDE_NO_SUCH}", "PRELUDE_NO_SUCH"),
        ("model.path=${server.nothing}", "model.path"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(override: str, expected: str) -> None:
    assert expected in message([override])


def test_an_override_must_come_in_a_list() -> None:
    assert message("server.port=1") == (
        "server.port=1: pass a list of overrides, as in ['server.port=1']"
    )


def test_errors_of_mappings() -> None:
    assert message({"server": {"prot": 1}}).startswith("server.prot: unknown key")
    assert message({"server.port": "x"}) == "server.port=x: must be a whole number"
    assert message({"preset": "fast"}).startswith("preset=fast: no such option")


def test_cross_checks_run_at_the_door() -> None:
    assert "set at most one" in message(["cache.num_blocks=8", "cache.memory_gib=1"])
    assert "0 to 65535" in message(["server.port=70000"])


def test_interpolation_reads_other_keys_and_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODELS", "/models")
    config = load_config(["model.path=${oc.env:MODELS}/x", "model.tokenizer=${model.path}"])
    assert config.model.tokenizer == "/models/x"


def test_sources() -> None:
    overrides = ["preset=latency", "server.port=1", "model=tiny", "+model.hf_config.extra=1"]
    assert source("server.port", overrides) == "command line"
    assert source("runner.max_seqs", overrides) == "preset/latency.yaml"
    assert source("model.path", overrides) == "model/tiny.yaml"
    assert source("model.hf_config.hidden_size", overrides) == "model/tiny.yaml"
    assert source("model.hf_config.extra", overrides) == "command line"
    assert source("cache.block_size", overrides) == "schema default"
    assert source("model.hf_config", []) == "schema default"


def test_the_source_of_removed_entries_is_gone() -> None:
    names = [v.name for v in explain(ENGINE, ["model=tiny", "~model.hf_config.head_dim"])]
    assert "model.hf_config.head_dim" not in names


@pytest.mark.parametrize("overrides", [[], ["model=tiny", "preset=lowmem", "log.steps=a.jsonl"]])
def test_what_is_explained_can_be_given_back(overrides: list[str]) -> None:
    lines = [f"{v.name}={v.text}" for v in explain(ENGINE, overrides)]
    assert load_config(lines) == load_config(overrides)


def test_own_options_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("path: /models/mine\nmax_len: 2048\n")
    config = load_config(["model=mine"], config_dirs=[tmp_path])
    assert (config.model.path, config.model.max_len) == ("/models/mine", 2048)
    assert source("model.path", ["model=mine"], config_dirs=[tmp_path]) == "model/mine.yaml"
    assert "no such option; did you mean mine?" in message(["model=min"], config_dirs=[tmp_path])


def test_own_option_replaces_ours_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "public.yaml").write_text("host: 10.0.0.1\n")
    config = load_config(["server=public"], config_dirs=[tmp_path])
    assert config.server.host == "10.0.0.1"


def test_errors_in_own_files_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "a.yaml").write_text("prot: 1\n")
    (tmp_path / "server" / "b.yaml").write_text("port: x\n")
    (tmp_path / "server" / "c.yaml").write_text("port: [\n")
    assert message(["server=a"], config_dirs=[tmp_path]) == (
        "server/a.yaml: server.prot: unknown key; did you mean server.port?"
    )
    assert message(["server=b"], config_dirs=[tmp_path]) == (
        "server/b.yaml: server.port: must be a whole number"
    )
    assert message(["server=c"], config_dirs=[tmp_path]).endswith(
        "server/c.yaml:2: not YAML: expected the node content, but found '<stream end>'"
    )


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    text = message([], config_dirs=[tmp_path / "none"])
    assert text.endswith("none: no such folder")


def test_bench_serve_has_its_own_groups_and_keys() -> None:
    config = load(
        BENCH_SERVE, ServeBenchConfig, ["workload=mix", "model=m", "classes.doc.weight=0"]
    )
    assert config.model == "m"
    assert set(config.classes) == {"chat", "deep", "doc"}
    assert config.classes["doc"].weight == 0.0
    assert config.classes["doc"].prompt.kind is LengthKind.lognormal


def test_a_mapping_of_records_takes_new_entries_with_their_defaults() -> None:
    config = load(BENCH_SERVE, ServeBenchConfig, ["classes.vip.prompt.value=7", "~classes.chat"])
    assert set(config.classes) == {"vip"}
    assert config.classes["vip"].prompt.value == 7
    assert config.classes["vip"].weight == 1.0


def test_records_in_mappings_are_typed() -> None:
    assert (
        message(["classes.vip.weight=a"], BENCH_SERVE) == "classes.vip.weight=a: must be a number"
    )
    assert "classes.vip.wait: unknown key" in message(["classes.vip.wait=1"], BENCH_SERVE)


@pytest.mark.parametrize("workload", options("bench/serve"))
def test_every_serve_workload_composes(workload: str) -> None:
    config = load(BENCH_SERVE, ServeBenchConfig, [f"workload={workload}"])
    assert config.classes and is_plain(config)


@pytest.mark.parametrize("workload", options("bench/engine"))
def test_every_engine_workload_composes(workload: str) -> None:
    overrides = [f"workload={workload}", "model=tiny", "bench.steps=3"]
    config = load(BENCH_ENGINE, EngineBenchConfig, overrides)
    assert config.bench.steps == 3 and config.model.path == "tiny"
    assert "set at most one" in message(["cache.num_blocks=8", "cache.memory_gib=1"], BENCH_ENGINE)


def is_plain(value: object) -> bool:
    """No OmegaConf container anywhere below."""
    if is_dataclass(value) and not isinstance(value, type):
        return all(is_plain(getattr(value, item.name)) for item in fields(value))
    if isinstance(value, dict):
        return type(value) is dict and all(map(is_plain, value.values()))
    if isinstance(value, list):
        return type(value) is list and all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float)


def test_asdict_of_the_config_is_plain() -> None:
    assert is_plain(asdict(load_config(["model=qwen3_0_6b"])))
