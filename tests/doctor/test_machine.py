"""What the machine, its memory and its disks say is read rightly, on each system."""

import os
import platform
import shutil
import sys
from collections import namedtuple

import pytest

from mlxtune.checks import Check
from mlxtune.doctor import disk, mac, machine
from mlxtune.memory import ask, readings
from tests.support.doctor import MEMINFO, SWAPUSAGE, VM_STAT, named


def as_macos(monkeypatch, said):
    """A Mac whose kernel says what is given, and nothing else."""
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    for module in (machine, mac, readings):
        monkeypatch.setattr(module, "sysctl", lambda name: said.get(name, ""))
    monkeypatch.setattr(readings, "ask", lambda *command: said.get(command[0], ""))


def test_linux_memory_is_parsed():
    assert readings.from_linux(MEMINFO) == (24689764 * 1024, 20023128 * 1024, (8388604 - 5242876) * 1024)


def test_macos_memory_is_parsed():
    available = 16384 * (123456 + 345678 + 12345)
    assert readings.from_macos("68719476736", VM_STAT, SWAPUSAGE) == (64 << 30, available, 1214.75 * 2**20)
    assert readings.from_macos("1", VM_STAT.replace("16384", "4096"), "").available == available // 4
    assert readings.from_macos("", "", SWAPUSAGE.replace(".", ",")).swap_used == 1214.75 * 2**20


def test_texts_that_say_nothing_give_nothing():
    assert readings.from_linux("") == readings.from_macos("", "", "") == (None, None, None)
    assert readings.from_macos("sysctl: unknown oid", "vm_stat: failed", "error") == (None, None, None)


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="the system says it in one way only")
def test_the_memory_of_this_machine_is_what_the_c_library_says():
    found = readings.now()
    assert found.total == pytest.approx(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), rel=0.01)
    assert 0 < found.available <= found.total


def test_little_free_memory_and_much_swap_are_warned_of():
    full = readings.Memory(total=16 << 30, available=1 << 30, swap_used=9 << 30)
    assert [machine.available(full).state, machine.swap(full).state] == ["warn", "warn"]
    free = readings.Memory(total=16 << 30, available=9 << 30, swap_used=1 << 30)
    assert [machine.available(free).state, machine.swap(free).state] == ["ok", "ok"]


def test_a_mac_is_told_with_its_cores_its_limit_and_its_watchdog(monkeypatch):
    said = {
        "machdep.cpu.brand_string": "Apple M4 Max",
        "hw.perflevel0.logicalcpu": "12",
        "hw.perflevel1.logicalcpu": "4",
        "hw.memsize": str(64 << 30),
        "iogpu.wired_limit_mb": "0",
        "vm_stat": VM_STAT,
        "vm.swapusage": SWAPUSAGE,
    }
    as_macos(monkeypatch, said)
    found = named([*machine.checks(), *mac.checks()])
    assert found["chip"].found == "Apple M4 Max, 12 performance and 4 efficiency cores"
    assert found["memory"].found == "68.7 GB"
    assert found["free memory"].found == "7.9 GB"
    assert "sudo sysctl iogpu.wired_limit_mb=57344" in found["wired limit"].remedy
    assert "freezes" in found["wired limit"].meaning
    assert "display" in found["display"].meaning


def test_a_mac_that_says_nothing_is_told_as_unknown(monkeypatch):
    as_macos(monkeypatch, {})
    found = named([*machine.checks(), *mac.checks()])
    assert found["chip"].found.startswith("unknown, ")
    assert {found[name].found for name in ("memory", "free memory", "swap", "wired limit")} == {"unknown"}


def test_a_python_for_intel_on_apple_silicon_is_bad(monkeypatch):
    as_macos(monkeypatch, {"sysctl.proc_translated": "1", "machdep.cpu.brand_string": "Apple M1"})
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert machine.chip().state == "bad"


def test_windows_is_told_as_unknown_and_has_no_lines_of_a_mac(monkeypatch, tmp_path):
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.setattr(readings, "Path", lambda _: tmp_path / "none")
    found = named(machine.checks())
    assert {found[name].found for name in ("memory", "free memory", "swap")} == {"unknown"}
    assert mac.checks() == []


def test_a_limit_that_leaves_the_system_too_little_is_warned_of():
    assert mac.wired_limit(48 << 10, 64 << 30).state == "ok"
    assert mac.wired_limit(62 << 10, 64 << 30).state == "warn"
    assert "sysctl iogpu.wired_limit_mb=" not in mac.wired_limit(0, 16 << 30).remedy


def test_a_program_that_is_absent_fails_or_hangs_says_nothing(monkeypatch):
    monkeypatch.setattr(ask, "SECONDS", 0.2)
    assert ask.ask("no-such-program-anywhere") == ""
    assert ask.ask(sys.executable, "-c", "print('x'); raise SystemExit(1)") == ""
    assert ask.ask(sys.executable, "-c", "import time; time.sleep(5)") == ""


def test_what_kept_states_take_is_told_where_there_are_some(tmp_path):
    check = Check("disk for kept states", "ok", f"1 TB free in {tmp_path}")
    assert disk.with_what_is_kept(check, tmp_path / "not" / "yet") == disk.with_what_is_kept(check, tmp_path) == check
    for name in ("one", "two"):
        (tmp_path / "prefix" / name).mkdir(parents=True)
        (tmp_path / "prefix" / name / "hidden-000002.bin").write_bytes(bytes(3_000_000))
    assert disk.with_what_is_kept(check, tmp_path).found.endswith("; 6.0 MB are kept, which may be deleted at any time")


@pytest.mark.parametrize(("free", "state"), [(10**8, "bad"), (5 * 10**9, "warn"), (10**12, "ok")])
def test_a_small_disk_is_told_for_a_folder_that_is_not_there_yet(monkeypatch, tmp_path, free, state):
    asked = []
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: asked.append(place) or Usage(10**12, 0, free))
    found = disk.room("disk", tmp_path / "not" / "yet", "For models.", "Free some.")
    assert (found.state, asked) == (state, [tmp_path])
    assert bool(found.remedy) == (state != "ok")


def test_a_folder_that_may_not_be_written_to_is_bad(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert disk.room("disk", tmp_path, "", "").state == "bad"
