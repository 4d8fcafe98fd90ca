"""Keys: their file, who they are, when it is read again, and the command that writes it."""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prelude.cli import main
from prelude.conf.schema import LimitsConfig, ServerConfig
from prelude.server.keys import Keyring
from prelude.server.keys_file import hash_key, new_key, read_keys, write_keys
from prelude.server.principal import KeyLimits
from tests.key_samples import entry
from tests.test_server_limits import Clock


def keyring(
    path: Path | None, environment: dict[str, str] | None = None, clock: Clock | None = None
) -> Keyring:
    config = ServerConfig(limits=LimitsConfig(concurrency=5))
    config.auth.keys = None if path is None else str(path)
    return Keyring(config, environment or {}, clock=clock or Clock())


async def reason(ring: Keyring, token: str) -> str:
    with pytest.raises(PermissionError) as caught:
        await ring.check(token)
    return str(caught.value)


def test_keys_are_long_random_and_never_kept() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"sk-prelude-[\w-]{43}", one) for one in made)
    assert hash_key("x") == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


async def test_a_key_is_who_its_entry_says(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    first = entry("one", "a", **{"class": "deep", "requests_per_min": 7, "priority": -2})
    write_keys(path, [first, entry("two", "a"), entry("three", "b", scopes=["metrics"])])
    ring = keyring(path)
    found = await ring.check("one")
    assert (found.name, found.service_class, found.priority) == ("a", "deep", -2)
    assert found.limits == KeyLimits(requests_per_min=7, concurrency=5)
    again, other = await ring.check("two"), await ring.check("three")
    assert found.salt == again.salt != other.salt
    assert not other.may("infer") and other.may("metrics")
    assert await reason(ring, "four") == "this API key is not known here"
    assert await reason(ring, first.sha256) == "this API key is not known here"
    assert (await keyring(path).check("one")).salt != found.salt  # of this process alone


async def test_keys_end(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    now = datetime.now(UTC).replace(microsecond=0)
    later, before = now + timedelta(days=1), now - timedelta(seconds=1)
    keys = [
        entry("good", expires=later),
        entry("old", expires=before),
        entry("off", disabled=True),
    ]
    write_keys(path, keys)
    ring = keyring(path)
    assert (await ring.check("good")).name == "good"
    assert await reason(ring, "old") == f"the API key old expired at {before:%F %T} UTC"
    assert await reason(ring, "off") == "the API key off is disabled"


async def test_the_environment_has_keys_too(tmp_path: Path) -> None:
    ring = keyring(None, {"PRELUDE_API_KEY": "secret", "PRELUDE_ADMIN_KEY": "admin"})
    assert not ring.is_empty
    user, admin = await ring.check("secret"), await ring.check("admin")
    assert user.may("infer") and user.may("metrics") and not user.may("admin")
    assert admin.may("admin") and admin.may("infer")
    assert keyring(None).is_empty
    assert keyring(None, {"PRELUDE_API_KEY": ""}).is_empty


async def test_a_changed_file_is_read_again_within_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.yaml", Clock()
    write_keys(path, [entry("one")])
    ring = keyring(path, clock=clock)
    write_keys(path, [entry("two")])
    assert (await ring.check("one")).name == "one"
    clock.now_s += 1
    assert (await ring.check("two")).name == "two"
    assert "not known" in await reason(ring, "one")
    write_keys(path, [entry("three")])
    ring.look_again()  # SIGHUP
    assert (await ring.check("three")).name == "three"


async def test_a_key_is_taken_back_though_the_system_was_short_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "keys.yaml", Clock()
    write_keys(path, [entry("one")])
    ring = keyring(path, clock=clock)
    write_keys(path, [entry("two")])

    def full(path: Path) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as broken:
        broken.setattr("prelude.server.keys.read_keys", full)
        clock.now_s += 1
        assert (await ring.check("one")).name == "one"
    clock.now_s += 1
    assert "not known" in await reason(ring, "one")


@pytest.mark.parametrize("broken", ["keys: [", "keys: [{name: x}]", None])
async def test_a_file_that_cannot_be_read_changes_nothing(
    tmp_path: Path, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "keys.yaml", Clock()
    write_keys(path, [entry("one")])
    ring = keyring(path, clock=clock)
    path.unlink()
    if broken is not None:
        path.write_text(broken)
    for _ in range(3):
        clock.now_s += 1
        assert (await ring.check("one")).name == "one"
        assert "not known" in await reason(ring, "two")
    assert len([r for r in caplog.records if "stay as they were" in r.message]) == 1
    write_keys(path, [entry("two")])
    clock.now_s += 1
    assert (await ring.check("two")).name == "two"


def test_a_server_does_not_start_with_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    with pytest.raises(OSError, match="no-such"):
        keyring(tmp_path / "no-such")
    path.write_text("keys: [{name: x, sha256: y}]")
    with pytest.raises(ValueError, match=r"server\.auth\.keys=.*64 hexadecimal digits"):
        keyring(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("{name: 'a b', sha256: HASH}", "name: must be 1 to 64 letters"),
        ("{name: a, sha256: HASH, clas: fast}", "unknown field `clas`"),
        ("{name: a, sha256: HASH, class: slow}", "Invalid enum value 'slow'"),
        ("{name: a, sha256: HASH, scopes: [all]}", "Invalid enum value 'all'"),
        ("{name: a, sha256: HASH, concurrency: -1}", "concurrency: must be 0"),
        ("{name: a, sha256: HASH, expires: '2030-01-01T00:00:00'}", "time zone"),
        ("{name: a, sha256: HASH, expires: 2030-01-01 00:00:00}", "time zone"),
        ("{name: a, sha256: HASH}, {name: b, sha256: HASH}", "the same sha256 is there twice"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, fields: str, message: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys: [{fields.replace('HASH', hash_key('x'))}]")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_keys(path)


@pytest.mark.parametrize("name", ["keys.yaml", "keys.json"])
def test_files_are_whole_and_for_their_owner(tmp_path: Path, name: str) -> None:
    path = tmp_path / "below" / name
    now = datetime.now(UTC).replace(microsecond=0)
    fields: dict[str, Any] = {"class": "batch", "tokens_per_min": 9}
    entries = [entry("x", created=now, **fields)]
    write_keys(path, entries)
    assert read_keys(path) == entries
    assert path.stat().st_mode & 0o077 == 0
    assert os.listdir(path.parent) == [name]
    path.write_text("")
    assert read_keys(path) == []


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.yaml"
    where = f"server.auth.keys={path}"
    limits = ["--requests-per-min", "60", "--max-cost-ms", "1500.5", "--expires", "90d"]
    assert main(["keys", "create", "team-a", where, "--class", "batch", *limits]) == 0
    token = capsys.readouterr().out.strip()
    assert token not in path.read_text()
    (made,) = read_keys(path)
    assert made.sha256 == hash_key(token)
    assert (made.service_class, made.requests_per_min, made.max_cost_ms) == ("batch", 60, 1500.5)
    assert made.created is not None
    assert made.expires == made.created + timedelta(days=90)
    assert main(["keys", "create", "team-a", where]) == 0
    assert "one more key" in capsys.readouterr().err
    assert main(["keys", "create", "ops", "--scopes", "admin,metrics", where]) == 0
    assert main(["keys", "disable", "team-a", where]) == 0
    assert capsys.readouterr().out.endswith("team-a: 2 disabled\n")
    assert main(["keys", "list", where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert re.match(r"team-a  disabled  batch  infer +requests_per_min=60,max_cost_ms=", lines[1])
    assert re.match(r"ops +active +- +admin,metrics", lines[3])
    assert [one.disabled for one in read_keys(path)] == [True, True, False]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["create", "a"], "say which file"),
        (["create", "FILE"], "the key's name is missing"),
        (["disable", "nobody", "FILE"], "no active key is named nobody"),
        (["create", "a", "--scopes", "root", "FILE"], "Invalid enum value 'root'"),
        (["create", "a", "--expires", "soon", "FILE"], "--expires soon"),
        (["revoke", "a"], "keys revoke: unknown action"),
        (["list", "MISSING"], "No such file"),
    ],
)
def test_what_the_command_refuses(
    tmp_path: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.yaml"
    write_keys(path, [])
    places = {"FILE": f"server.auth.keys={path}", "MISSING": f"server.auth.keys={tmp_path}/none"}
    assert main(["keys", *(places.get(arg, arg) for arg in args)]) != 0
    assert message in capsys.readouterr().err
    assert read_keys(path) == []
