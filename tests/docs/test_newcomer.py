"""The path of somebody new: a wheel, a fresh environment, a folder of their own, the README's first example."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from pages import ROOT, blocks, on_free_ports

from cluster.local import free_ports

PATIENCE_S = 600        # what the README may take somebody, builds and downloads included
READY_S = 60.0


def run(command: list[str], folder: Path, seconds: float = PATIENCE_S) -> str:
    """Output of a command of the newcomer: nothing of this checkout is on its path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.timeout(PATIENCE_S)
def test_the_first_example_of_the_readme_works_from_a_wheel_in_a_fresh_environment(tmp_path):
    run([sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(ROOT)], tmp_path)
    # By way of a source archive: a wheel from the checkout itself would have what earlier builds left there.
    (wheel,) = (tmp_path / "dist").glob("quorumq-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv/bin/python")
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)], tmp_path)

    folder = tmp_path / "first"
    folder.mkdir()
    ports: dict[str, int] = {}
    free = free_ports(8)
    for block in blocks(ROOT / "README.md"):
        if block.file_name:
            (folder / block.file_name).write_text(on_free_ports(block.text, ports, free), encoding="utf-8")
    where = "import cluster, pathlib; print(pathlib.Path(cluster.__file__).parent)"
    assert run([python, "-c", where], folder).startswith(str(tmp_path / "venv")), "the checkout was imported"

    with (tmp_path / "launch.log").open("wb") as log:
        launch = subprocess.Popen([python, "-m", "cluster.launch", "topology.toml"], cwd=folder, stdout=log, stderr=log)
        try:
            assert run([python, "client.py"], folder, READY_S) == "144\n332833500\n"
            quorumq = str(tmp_path / "venv/bin/quorumq")
            assert run([quorumq, "submit", "topology.toml", "tasks:square", "7", "--wait"], folder, READY_S) == "49\n"
            assert "leader b" in run([quorumq, "status", "topology.toml"], folder, READY_S)
        finally:
            launch.terminate()
            assert launch.wait(READY_S) == 0
