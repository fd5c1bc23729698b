"""A rig deployed over ssh on three machines: what is where, again, another version, back, and what must not happen.

The machines are namespaces with sshd in them (tests/support/ssh_hosts.py); everything else is as in a laboratory: the
wheels, the program ansible-playbook, the user, the modes of files. systemd does not run there: the unit is verified,
and on two of the machines a program in place of systemctl writes down what it is asked for.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from lab import HOSTS
from needs import lacking
from ssh_hosts import SshHosts, need_hosts
from three_hosts import three_hosts

from loop2p.cli.bundle import PYTHON, BundleError, locked, own_wheel
from loop2p.protocol import ROLES, RigFile
from loop2p.runtime.keys import OPERATOR, make_keys

ROOT = Path(__file__).parents[2]
LOOP2P = Path(sys.executable).with_name("loop2p")
UP = "/opt/loop2p/current/venv/bin"
pytestmark = pytest.mark.timeout(3600)


SYSTEMCTL = """#!/bin/sh
case $1 in
    show) printf 'LoadState=loaded\\nActiveState=%s\\n' $(cat /run/active 2>/dev/null || echo inactive); exit ;;
    is-enabled) cat /run/enabled 2>/dev/null || { echo disabled; exit 1; }; exit ;;
    enable) echo enabled > /run/enabled ;;
    start | restart) echo active > /run/active ;;
esac
echo $* >> /run/asked
"""


class Laboratory(NamedTuple):
    hosts: SshHosts
    rig: RigFile
    wheel: Path
    work: Path

    def deploy(self, *options: str, code: int = 0) -> str:
        """`loop2p deploy`; what it prints. The host's Python is the Debian one, whatever else is on its path."""
        command = [LOOP2P, "deploy", self.rig.path, "--work", self.work, "--tasks", ROOT / "deploy" / "tasks", *options]
        env = os.environ | {"ANSIBLE_SSH_EXECUTABLE": str(self.hosts.ssh), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200"}
        more = {"loop2p_python": "/usr/bin/python3", "loop2p_pip_options": ["--no-compile"]}  # the latter: for speed
        ansible = ["--", "--user", "root", "-e", json.dumps(more)]
        done = subprocess.run([*command, *ansible], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def releases(self) -> dict[str, str]:
        """Host -> release in use."""
        return {name: self.hosts.run(name, "readlink /opt/loop2p/current").strip() for name in HOSTS}

    def asked_of_systemd(self, host: str) -> list[str]:
        """What systemctl was asked to do since the last look."""
        return self.hosts.run(host, "cat /run/asked; rm -f /run/asked", check=False).splitlines()

    def packages(self, host: str) -> dict[str, str]:
        told = self.hosts.run(host, f"{UP}/python -m pip list --format json --disable-pip-version-check")
        return {re.sub(r"[-_.]+", "-", p["name"].lower()): p["version"] for p in json.loads(told)}


def counts(printed: str) -> dict[str, dict[str, int]]:
    """Host -> ok, changed, unreachable, failed: Ansible's recap."""
    recap = printed.partition("PLAY RECAP")[2]
    lines = re.findall(r"^(\w+) +: (.*)$", recap, re.MULTILINE)
    return {name: {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", rest)} for name, rest in lines}


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """Three machines on which the rig has been deployed once."""
    need_hosts()
    if not LOOP2P.with_name("ansible-playbook").exists():
        pytest.fail("no ansible-playbook beside loop2p, though the extra `deploy` is part of the development set-up")
    said = subprocess.run(
        ["/usr/bin/python3", "-c", "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    if said != PYTHON:
        lacking(f"/usr/bin/python3 with venv is {said or 'absent'}, expected {PYTHON} as here (Debian: python3-venv)")
    folder = tmp_path_factory.mktemp("deploy")
    rig = three_hosts(folder)
    make_keys(rig.path.parent / "keys", [*rig.rig.services, OPERATOR])
    # the checkout's sources may be edited while this runs: one wheel for all
    wheel = own_wheel(ROOT, folder / "wheel")
    (folder / "ssh").mkdir()
    with SshHosts(folder / "ssh") as hosts:
        made = Laboratory(hosts, rig, wheel, folder / "work")
        for name in ("microscope", "stimulus"):
            hosts.run(name, f"mkdir -p /run/systemd/system; cat > /usr/bin/systemctl <<'END'\n{SYSTEMCTL}END")
            hosts.run(name, "chmod +x /usr/bin/systemctl")
        told = made.deploy("--version", str(wheel))
        recap = counts(told)
        assert recap.keys() == set(HOSTS)
        assert all(c["changed"] > 10 and c["failed"] == c["unreachable"] == 0 for c in recap.values()), recap
        assert re.search(r"ok: \[control\] => *msg: '?no systemd here: nothing was started", " ".join(told.split()))
        for name in ("microscope", "stimulus"):
            unit = "loop2p-up@lab.service"
            assert made.asked_of_systemd(name) == ["daemon-reload", f"enable {unit}", f"start {unit}"]
        yield made


@pytest.mark.long
def test_what_is_there_already_is_left_alone(laboratory: Laboratory):
    recap = counts(laboratory.deploy("--version", str(laboratory.wheel)))
    assert {name: c["changed"] for name, c in recap.items()} == dict.fromkeys(HOSTS, 0)
    assert laboratory.asked_of_systemd("stimulus") == []


@pytest.mark.long
def test_each_machine_checks_out(laboratory: Laboratory):
    """The command that is installed there says that all that runs there can, and that the rig file is the one."""
    for name in HOSTS:
        here = {n for n, s in (laboratory.rig.rig.services | laboratory.rig.rig.side).items() if s.host == name}
        check = f"runuser -u loop2p -- loop2p check /etc/loop2p/lab/rig.toml --host {name} --json"
        lines = {line["what"]: line for line in json.loads(laboratory.hosts.run(name, check))}
        assert laboratory.rig.hash in lines["rig file"]["detail"]
        assert here <= lines.keys()
        assert all(line["ok"] for line in lines.values())
    wrong = "runuser -u loop2p -- loop2p check /etc/loop2p/lab/rig.toml --host control"
    told = laboratory.hosts.run("stimulus", wrong, check=False)
    assert re.search(r"MISSING recording: .*No module named", told), "what is not installed is seen"


@pytest.mark.long
def test_each_machine_has_the_libraries_of_its_roles_alone(laboratory: Laboratory):
    stimulus, microscope, control = (laboratory.packages(n) for n in ("stimulus", "microscope", "control"))
    assert {"loop2p", "glfw", "moderngl"} <= stimulus.keys()
    analysis = {"pandas", "statsmodels", "dask", "distributed", "scikit-learn", "scipy", "matplotlib", "pynwb", "numba"}
    assert not analysis & stimulus.keys()
    assert {"scipy", "tifffile"} <= microscope.keys()
    assert {"numba", "pynwb", "pyserial"} <= control.keys()
    assert not {"pandas", "statsmodels", "dask", "glfw"} & microscope.keys()
    assert not {"statsmodels", "dask", "glfw", "pytest"} & control.keys()
    lock = locked((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    for name, version in (*stimulus.items(), *microscope.items(), *control.items()):
        if name not in ("loop2p", "pip", "setuptools"):  # the latter two came with Python
            assert version in lock[name], f"{name} {version} is not locked"


@pytest.mark.long
def test_each_secret_key_is_on_its_own_machine_and_is_its_users_alone(laboratory: Laboratory):
    hosts = {name: spec.host for name, spec in laboratory.rig.rig.services.items()} | {OPERATOR: "control"}
    for name in HOSTS:
        found = laboratory.hosts.run(name, r"find / -xdev -name '*.key_secret' -printf '%p %m %u\n'")
        assert sorted(found.splitlines()) == sorted(
            f"/etc/loop2p/lab/keys/private/{key}.key_secret 600 loop2p" for key, host in hosts.items() if host == name
        )
        public = laboratory.hosts.run(name, "cd /etc/loop2p/lab/keys/public && ls").split()
        assert sorted(public) == sorted(f"{key}.key" for key in hosts)
        assert laboratory.hosts.run(name, "stat -c '%a %U' /etc/loop2p/lab/keys/private").strip() == "700 loop2p"
        own = laboratory.rig.path.parent / "keys" / "private"
        for key in (k for k, host in hosts.items() if host == name):
            there = laboratory.hosts.run(name, f"cat /etc/loop2p/lab/keys/private/{key}.key_secret")
            assert there == (own / f"{key}.key_secret").read_text()


@pytest.mark.long
def test_a_key_that_does_not_belong_there_goes(laboratory: Laboratory):
    keys = "/etc/loop2p/lab/keys"
    laboratory.hosts.run("stimulus", f"cp {keys}/public/task.key {keys}/public/guest.key")
    laboratory.hosts.run("stimulus", f"cp {keys}/private/stimulus.key_secret {keys}/private/task.key_secret")
    recap = counts(laboratory.deploy("--version", str(laboratory.wheel), "--host", "stimulus", "--restart"))
    assert recap["stimulus"]["changed"] == 2, "the keys, and the restart that was asked for"
    assert laboratory.asked_of_systemd("stimulus") == ["restart loop2p-up@lab.service"]
    assert "guest.key" not in laboratory.hosts.run("stimulus", f"ls {keys}/public")
    assert laboratory.hosts.run("stimulus", f"ls {keys}/private").split() == ["stimulus.key_secret"]


@pytest.mark.long
def test_the_unit_can_start_what_is_installed(laboratory: Laboratory):
    for name in HOSTS:
        told = laboratory.hosts.run(
            name,
            "cd /etc/systemd/system && systemd-analyze verify loop2p-up@lab.service 2>&1; cat /etc/loop2p/lab/host.env",
        )
        assert told == f"LOOP2P_HOST={name}\n"


@pytest.mark.long
def test_services_start_as_the_user_of_the_unit_and_find_their_keys(laboratory: Laboratory):
    """`up` on the stimulus machine as the unit has it; asked from control with the operator's key, then stopped."""
    unit = (ROOT / "deploy" / "systemd" / "loop2p-up@.service").read_text()
    (start,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    start = "exec runuser -u loop2p -- " + start.replace("%i", "lab").replace("${LOOP2P_HOST}", "stimulus")
    with subprocess.Popen(
        [
            laboratory.hosts.ssh,
            f"root@{HOSTS['stimulus']}",
            f"cd /var/lib/loop2p/lab && {start}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any("stimulus started" in line for line in process.stderr)
        # ask until it answers: `stop` says whether it was heard
        stop = "runuser -u loop2p -- loop2p stop /etc/loop2p/lab/rig.toml --host stimulus"
        told = laboratory.hosts.run("control", f"for n in 1 2 3 4 5 6 7 8 9; do {stop} && break; done", check=False)
        assert "stimulus: stops" in told
        assert process.wait(60) == 0
        process.stderr.close()
    log = laboratory.hosts.run("stimulus", "cat /var/lib/loop2p/lab/runs/logs/stimulus.log")
    assert "Traceback" not in log


# ---------------------------------------------------------------- versions


@pytest.fixture(scope="module")
def newer(laboratory: Laboratory) -> Path:
    """A wheel of another version, and nothing else."""
    checkout = laboratory.work.parent / "newer"
    checkout.mkdir()
    for part in ("protocol", "services", "simulation", "analysis"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("README.md", "LICENSE"):
        shutil.copy(ROOT / file, checkout)
    text = (ROOT / "pyproject.toml").read_text()
    assert text.count('\nversion = "') == 1
    (checkout / "pyproject.toml").write_text(re.sub(r'\nversion = ".*"', '\nversion = "99.1.0"', text))
    return own_wheel(checkout, checkout / "dist")


@pytest.mark.long
def test_a_machine_that_is_not_there_keeps_all_from_being_upgraded(laboratory: Laboratory, newer: Path):
    before = laboratory.releases()
    cable = laboratory.hosts.lab.cables["microscope"]
    cable.cut()
    try:
        told = laboratory.deploy("--version", str(newer), code=4)  # Ansible's code for "unreachable"
    finally:
        cable.mend()
    assert counts(told)["microscope"]["unreachable"] == 1
    assert laboratory.releases() == before


@pytest.mark.long
def test_one_machine_is_upgraded_and_brought_back(laboratory: Laboratory, newer: Path):
    before = laboratory.releases()
    told = laboratory.deploy("--version", str(newer), "--host", "stimulus", "--check")
    assert laboratory.releases() == before, "--check changes nothing"
    assert counts(told)["stimulus"]["changed"] > 0
    told = laboratory.deploy("--version", str(newer), "--host", "stimulus")
    assert counts(told).keys() == {"stimulus"}
    assert laboratory.asked_of_systemd("stimulus") == [], "what runs is left to run"
    assert "until, between sessions, systemctl restart loop2p-up@lab" in " ".join(told.split())
    after = laboratory.releases()
    assert {n: after[n] != before[n] for n in HOSTS} == {"microscope": False, "stimulus": True, "control": False}
    assert laboratory.packages("stimulus")["loop2p"] == "99.1.0"
    laboratory.deploy("--host", "stimulus", "--rollback")
    assert laboratory.releases() == before
    assert laboratory.packages("stimulus")["loop2p"] != "99.1.0"
    laboratory.deploy("--host", "control", "--rollback", code=2)  # it has no release before its first
    assert laboratory.releases() == before
    assert laboratory.hosts.run("stimulus", "readlink /opt/loop2p/previous").strip() == after["stimulus"]


# ---------------------------------------------------------------- refused before anything is touched


def test_deploy_refuses_what_it_cant_do(tmp_path: Path):
    rig = three_hosts(tmp_path)

    def refused(*options: str) -> str:
        command = [LOOP2P, "deploy", rig.path, "--work", tmp_path / "work", *options]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode in (1, 2), done.stderr
        assert "ansible-playbook" not in done.stderr
        return " ".join(done.stderr.split())

    assert "imaging.key: not there" in refused()
    assert "`loop2p keys" in refused()
    assert "nothing runs on host 'kitchen', there are microscope, control, stimulus" in refused("--host", "kitchen")
    make_keys(rig.path.parent / "keys", [*ROLES, OPERATOR])
    assert "no wheel of loop2p" in refused("--version", str(rig.path))
    assert "no such folder" in refused("--tasks", str(tmp_path / "none"))


def test_the_inventory_script_answers_ansible(tmp_path: Path):
    """ansible-inventory reads the same from the script and from the file's form."""
    tool = LOOP2P.with_name("ansible-inventory")
    rig = three_hosts(tmp_path)
    env = os.environ | {"LOOP2P_RIG": str(rig.path), "PATH": f"{LOOP2P.parent}:{os.environ['PATH']}"}

    def asked(source: Path) -> dict[str, object]:
        done = subprocess.run([tool, "-i", source, "--list"], env=env, capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))

    fixed = tmp_path / "inventory.json"
    fixed.write_text(subprocess.run([LOOP2P, "inventory", rig.path], capture_output=True, text=True, check=True).stdout)
    by_script, by_file = asked(ROOT / "deploy" / "ansible" / "inventory.sh"), asked(fixed)
    assert by_script["_meta"] == by_file["_meta"]
    assert by_script["role_stimulus"] == by_file["role_stimulus"] == {"hosts": ["stimulus"]}


def test_a_wheel_that_cant_be_built_is_an_error(tmp_path: Path):
    with pytest.raises(BundleError, match=r"building the wheel: `python -m hatchling build -t` ended with"):
        own_wheel(tmp_path, tmp_path / "work")
